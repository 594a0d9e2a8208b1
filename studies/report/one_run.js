// One run: its layers, its path, its vertices. The three choices go together.

const heatCursor = element("div", undefined, { class: "cursor" });
let selected = 0;

function fillSelects() {
  const some = [...chosen].sort((a, b) => a - b);
  if (!chosen.has(selected) && some.length) selected = some[0];
  for (const select of document.querySelectorAll("select.run")) {
    select.replaceChildren(
      ...some.map((i) => element("option", data.runs[i].label, { value: i })));
    select.value = selected;
  }
  drawRun();
}

function drawRun() {
  const run = data.runs[selected];
  if (!run) return;
  drawHeat();
  drawSpread();
  drawPath(run);
  drawVertices(run);
}

function drawPath(run) {
  byId("path-section").hidden = ![...chosen].some((i) => data.runs[i].landscapes);
  const scapes = run.landscapes ?? {};
  for (const option of byId("along").options) option.disabled = !(option.value in scapes);
  if (!(byId("along").value in scapes)) byId("along").value = "path";
  const scape = scapes[byId("along").value];
  const div = byId("path");
  if (!scape) {
    Plotly.react(div, [], look({
      annotations: [{ text: "This run has no path.", showarrow: false }],
      xaxis: { visible: false }, yaxis: { visible: false },
    }), OPTIONS);
    return;
  }
  const at = scape.at_epochs;
  const x = scape.path.map((point) => point[0]);
  const y = scape.path.map((point) => point[1]);
  const log = scape.losses.map((row) => row.map((value) => (value > 0 ? Math.log10(value) : null)));
  Plotly.react(div, [
    {
      type: "contour", x: scape.u, y: scape.v, z: log, customdata: scape.losses,
      colorscale: "Viridis", ncontours: 24, line: { width: 0.4, color: "rgba(255,255,255,.5)" },
      colorbar: logarithmicBar("loss", scape.losses),
      hovertemplate: "loss %{customdata:.4g}<extra></extra>",
    },
    { x, y, mode: "lines", line: { color: "#ffffff", width: 5 }, hoverinfo: "skip" },
    { x, y, mode: "lines", line: { color: "#D55E00", width: 2.5 }, hoverinfo: "skip" },
    {
      x: at.map((i) => x[i]), y: at.map((i) => y[i]), mode: "markers",
      customdata: at.map((i, epoch) => [epoch, scape.heights[i]]),
      marker: { color: "#D55E00", size: at.map((_, epoch) => (epoch ? 8 : 13)), line: { color: "#ffffff", width: 1 } },
      hovertemplate: "after epoch %{customdata[0]}: loss %{customdata[1]:.4g}<extra></extra>",
    },
    {
      x: [], y: [], mode: "markers", hoverinfo: "skip",
      marker: { color: "#F0E442", size: 15, symbol: "diamond", line: { color: "#000000", width: 1.5 } },
    },
  ], look({
    margin: { l: 60, r: 12, t: 10, b: 50 },
    annotations: [[0, "start"], [x.length - 1, "end"]].map(([i, text]) => ({
      x: x[i], y: y[i], text, ax: 0, ay: -28, arrowcolor: "#ffffff", bgcolor: styleOf("--panel"),
    })),
    xaxis: { title: { text: inTwoLines(scape.labels[0]) }, showgrid: false, zeroline: false },
    yaxis: { title: { text: inTwoLines(scape.labels[1]) }, showgrid: false, zeroline: false },
  }), OPTIONS);
  if (!div.linked) {
    div.linked = true;
    div.on("plotly_hover", (event) => {
      const point = event.points.find((p) => p.curveNumber === 3);
      if (point && point.customdata[0] > 0) showEpoch(point.customdata[0]);
    });
  }
  markPath(current);
}

const inTwoLines = (label) => label.replace(" (", "<br>(");

function markPath(epoch) {
  const div = byId("path");
  const scape = data.runs[selected]?.landscapes?.[byId("along").value];
  if (!scape || epoch === null || (div.data?.length ?? 0) < 5) return;
  const point = scape.path[scape.at_epochs[epoch]];
  Plotly.restyle(div, { x: [point ? [point[0]] : []], y: [point ? [point[1]] : []] }, [4]);
}

function drawVertices(run) {
  const section = byId("vertices-section");
  section.hidden = ![...chosen].some((i) => data.runs[i].z?.length);
  if (section.hidden) return;
  const events = byId("event");
  const number = run.truth?.length ?? 0;
  const before = Math.min(Number(events.value || 0), Math.max(0, number - 1));
  events.replaceChildren(...[...Array(number).keys()].map((i) => element("option", i + 1, { value: i })));
  events.value = before;
  const i = before;
  const steps = { mode: "lines", line: { shape: "hvh", width: 1.5 }, fill: "tozeroy" };
  Plotly.react(byId("vertices"), number ? [
    { x: run.z, y: run.truth[i], name: "truth", ...steps, line: { ...steps.line, color: "#009E73" } },
    {
      x: run.z, y: run.prediction[i].map((value) => -value), name: "prediction", ...steps,
      line: { ...steps.line, color: "#0072B2" }, customdata: run.prediction[i],
      hovertemplate: "%{customdata:.3g}",
    },
  ] : [], look({
    margin: { l: 60, r: 12, t: 10, b: 42 },
    showlegend: true, legend: { orientation: "h", y: 1.12 }, hovermode: "x",
    xaxis: { title: { text: "z (mm)" } },
    yaxis: {
      title: { text: "vertices a bin" },
      range: number ? [-1.15, 1.15].map((s) => s * Math.max(0.05, ...run.truth[i].filter(Boolean))) : undefined,
    },
  }), OPTIONS);
}
