"use strict";

// The page: which runs are chosen, what is drawn of them, and the epoch all of it points at.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const dark = matchMedia("(prefers-color-scheme: dark)");

// Okabe and Ito's colours, which colour-blind readers tell apart; then lighter ones.
const COLOURS = [
  "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D",
  "#666666", "#66A61E", "#E7298A", "#1B9E77",
];
const DASHES = { torch: "solid", jax: "dash" };
const CHARTS = [
  { key: "loss", title: "training loss", log: true },
  { key: "rate", title: "learning rate", log: true },
  { key: "step_size", title: "size of the epoch step", log: true },
  { key: "angle", title: "angle to the previous epoch step (°)", log: false },
];
const metrics = [...new Set(data.runs.flatMap((run) => Object.keys(run.columns)))]
  .filter((name) => name.startsWith("metric:"));
for (const name of metrics) {
  CHARTS.push({ key: name, title: name.slice(7).replaceAll("_", " "), log: false });
}

const studies = [...new Set(data.runs.map((run) => run.study))];
const EVERY = ""; // the choice of all studies together
const ofStudy = (study) =>
  [...data.runs.keys()].filter((i) => study === EVERY || data.runs[i].study === study);
const MOST = 24; // lines that a study begins with: more cannot be told apart
const chosen = new Set();
// Runs that differ in their seed only; one line stands for all of them, if that is asked for.
const families = new Map();
data.runs.forEach((run) => {
  const { seed, ...rest } = JSON.parse(run.kind);
  run.seedless = JSON.stringify(rest);
  families.set(run.seedless + run.backend, []);
});
const familyOf = (i) => families.get(data.runs[i].seedless + data.runs[i].backend);
for (const i of data.runs.keys()) familyOf(i).push(i);
const relatives = (i) => (byId("together").checked ? familyOf(i) : [i]);
const isFirst = (i) => relatives(i)[0] === i;

// The same training in both frameworks has one colour; dashes tell them apart.
const kinds = new Map(["kind", "seedless"].map((key) => [key, new Map(studies.map((study) =>
  [study, [...new Set(ofStudy(study).map((i) => data.runs[i][key]))]]))]));
function colour(i) {
  const key = byId("together").checked ? "seedless" : "kind";
  const own = kinds.get(key).get(data.runs[i].study);
  const k = own.indexOf(data.runs[i][key]);
  if (own.length <= COLOURS.length) return COLOURS[k];
  return `hsl(${Math.round(137.5 * k) % 360}, 65%, ${k % 2 ? 38 : 55}%)`; // neighbours differ
}
let current = null;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function look(more = {}) {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: of("--line"), zerolinecolor: of("--line"), automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    margin: { l: 60, r: 12, t: 30, b: 42 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: of("--text"), size: 13 },
    hoverlabel: { namelength: -1 },
    showlegend: false,
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
    ...rest,
  };
}

// A colour bar of logarithms, labelled with the numbers themselves.
function logarithmicBar(title, rows) {
  const logs = rows.flat().filter((value) => value > 0).map(Math.log10);
  const low = Math.min(...logs), high = Math.max(...logs);
  const factors = high - low < 2.5 ? [1, 2, 5] : [1];
  const stride = Math.max(1, Math.ceil((high - low) / 8));
  const values = [];
  for (let decade = Math.floor(low); decade <= high; decade += stride) {
    values.push(...factors.map((factor) => factor * 10 ** decade));
  }
  const inside = values.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
  const few = inside.length < 2; // less than a decade: some numbers of it
  const shown = few ? [0, 1, 2, 3].map((i) => 10 ** (low + ((high - low) * i) / 3)) : inside;
  return {
    title: { text: title },
    tickvals: shown.map(Math.log10),
    ticktext: shown.map((value) => String(Number(value.toPrecision(few ? 3 : 1)))),
  };
}

// A logarithmic axis: within few decades with labels at 2 and 5, too, and powers only where numbers are long.
function logarithmicAxis(values) {
  const known = values.filter((value) => value > 0);
  const low = Math.min(...known), high = Math.max(...known);
  const decades = known.length ? Math.log10(high / low) : 0;
  return {
    type: "log",
    exponentformat: low > 1e-4 && high < 1e5 ? "none" : "power",
    minorloglabels: "complete",
    ...(decades > 0.3 && decades < 3 ? { dtick: "D2" } : {}),
  };
}

// Plotly takes tags in its texts; a name is no tag.
const asText = (name) =>
  name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const OPTIONS = { responsive: true, displaylogo: false, toImageButtonOptions: { format: "svg" } };

// The list of runs.

function listRuns() {
  const list = byId("runs");
  data.runs.forEach((run, i) => {
    const box = element("input", undefined, { type: "checkbox", "data-run": i });
    box.addEventListener("change", () => choose(relatives(i), box.checked));
    const line = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    line.setAttribute("width", 28);
    line.setAttribute("height", 10);
    const dash = run.backend === "jax" ? ' stroke-dasharray="6 4"' : "";
    line.innerHTML = `<line x1="0" x2="28" y1="5" y2="5" stroke="${colour(i)}" stroke-width="3"${dash}/>`;
    const label = element("label");
    label.append(box, line, element("span", run.label));
    label.title = run.folder;
    const item = element("li");
    item.append(label);
    list.append(item);
  });
  byId("filter").addEventListener("input", filterRuns);
  const shown = () => [...data.runs.keys()].filter((i) => !list.children[i].hidden);
  byId("all").addEventListener("click", () => choose(shown().flatMap(relatives), true));
  byId("none").addEventListener("click", () => choose(shown().flatMap(relatives), false));
}

function filterRuns() {
  const words = byId("filter").value.toLowerCase().split(/\s+/);
  const own = new Set(ofStudy(byId("study").value));
  data.runs.forEach((run, i) => {
    const text = `${run.label} ${run.folder}`.toLowerCase();
    const row = byId("runs").children[i];
    row.hidden = !own.has(i) || !isFirst(i) || !words.every((word) => text.includes(word));
    const many = relatives(i).length;
    row.querySelector("line").setAttribute("stroke", colour(i));
    row.querySelector("span").textContent = many > 1 ? `${run.family} (${many} seeds)` : run.label;
  });
}

function listStudies() {
  const named = studies.map((name) => [name, `${name.replaceAll("_", " ")} (${ofStudy(name).length})`]);
  for (const [value, text] of [...named, [EVERY, `all studies (${data.runs.length})`]]) {
    byId("study").append(element("option", text, { value }));
  }
  byId("study-choice").hidden = studies.length < 2;
  byId("study").value = studies.includes(data.own) ? data.own : studies[0];
  byId("study").addEventListener("change", openStudy);
}

// One line for all seeds, where there would be too many.
function openStudy() {
  const runs = ofStudy(byId("study").value);
  byId("together").checked = runs.length > MOST;
  byId("together-choice").hidden = runs.every((i) => familyOf(i).length === 1);
  beginLines();
}

// The study's first lines, and nothing of the others.
function beginLines() {
  const runs = ofStudy(byId("study").value);
  for (const i of data.runs.keys()) set(i, false);
  for (const i of runs.filter(isFirst).slice(0, MOST).flatMap(relatives)) set(i, true);
  byId("together-means").hidden = runs.every((i) => relatives(i).length === 1);
  filterRuns();
  fillTable();
  showVerdicts();
  show();
}

function set(i, on) {
  if (on) chosen.add(i);
  else chosen.delete(i);
  byId("runs").children[i].querySelector("input").checked = on;
}

function choose(which, on) {
  for (const i of which) set(i, on);
  show();
}

function show() {
  for (const row of byId("table").tBodies[0].rows) row.hidden = !chosen.has(Number(row.dataset.of));
  drawCharts();
  showAlerts();
  if (!opening) drawRest();
}

// What stands below the first charts: drawn after them when the page opens.
let opening = true;
function drawRest() {
  fillSelects();
  offerPair();
}

// The charts over the epochs: one cursor, one zoom.

let zooming = false;

function makeCharts() {
  for (const chart of CHARTS) {
    const div = element("div", undefined, { class: "chart", id: `chart-${chart.key}` });
    byId("charts").append(div);
    chart.div = div;
    chart.cursor = element("div", undefined, { class: "cursor" });
  }
}

function drawCharts() {
  const across = byId("across").value;
  const logarithmic = byId("log").checked;
  byId("count").textContent = `${chosen.size} of ${data.runs.length} shown`;
  for (const chart of CHARTS) {
    const runs = [...chosen].sort((a, b) => a - b)
      .filter((i) => chart.key in data.runs[i].columns && data.runs[i][across].length);
    const lines = new Map(); // the runs of a line, by the first of all that it may stand for
    for (const i of runs) {
      const first = relatives(i)[0];
      lines.set(first, [...(lines.get(first) ?? []), i]);
    }
    const traces = [...lines.values()].flatMap((own) => linesOf(own, chart.key, across))
      .sort((a, b) => ("fill" in b) - ("fill" in a)); // bands under all lines
    chart.div.hidden = !traces.length && chosen.size > 0;
    const layout = look({
      title: { text: asText(chart.title), font: { size: 14 }, x: 0, xref: "paper", xanchor: "left" },
      xaxis: { title: { text: across } },
      yaxis: {
        ...(chart.log && logarithmic ? logarithmicAxis(traces.flatMap((trace) => trace.y))
          : { type: "linear", exponentformat: "power" }),
        ...(chart.key === "angle" ? { range: [-5, 185], tickvals: [0, 45, 90, 135, 180] } : {}),
      },
      uirevision: across,
    });
    Plotly.react(chart.div, traces, layout, OPTIONS);
    chart.div.append(chart.cursor);
    if (!chart.linked) link(chart);
  }
  showEpoch(current);
}

// One run, or the median of several with a band from the smallest to the largest value.
function linesOf(runs, key, across) {
  const first = data.runs[runs[0]];
  const line = {
    x: first[across],
    y: first.columns[key],
    customdata: first.epoch,
    name: asText(first.label),
    mode: first.epoch.length > 40 ? "lines" : "lines+markers",
    marker: { size: 5 },
    line: { color: colour(runs[0]), width: 2, dash: DASHES[first.backend] ?? "solid" },
    hovertemplate: "%{y:.4g}, epoch %{customdata}",
  };
  if (runs.length === 1) return [line];
  const own = runs.map((i) => data.runs[i]);
  const longest = own.reduce((a, b) => (a.epoch.length >= b.epoch.length ? a : b));
  const points = longest.epoch.map((epoch, k) => ({
    epoch,
    x: middle(own.map((run) => run[across][k])),
    values: finite(own.map((run) => run.columns[key][k])),
  })).filter((point) => point.values.length);
  const back = [...points].reverse();
  const band = {
    x: [...points, ...back].map((point) => point.x),
    y: [...points.map((point) => point.values[0]), ...back.map((point) => point.values.at(-1))],
    mode: "lines", fill: "toself", fillcolor: line.line.color, opacity: 0.2, line: { width: 0 },
    hoverinfo: "skip",
  };
  return [band, {
    ...line,
    x: points.map((point) => point.x),
    y: points.map((point) => middle(point.values)),
    customdata: points.map((point) => point.epoch),
    name: asText(first.family),
  }];
}

const finite = (values) => values.filter(Number.isFinite).sort((a, b) => a - b);
function middle(values) {
  const some = finite(values);
  return (some[(some.length - 1) >> 1] + some[some.length >> 1]) / 2;
}

function link(chart) {
  chart.linked = true;
  chart.div.addEventListener("mousemove", (event) => {
    if (byId("across").value === "epoch") showEpoch(epochAt(chart.div, event));
  });
  chart.div.on("plotly_hover", (event) => showEpoch(event.points[0].customdata));
  chart.div.on("plotly_relayout", (change) => {
    showEpoch(current);
    if (zooming) return;
    const keys = Object.keys(change).filter((key) => key.startsWith("xaxis."));
    if (!keys.length) return;
    zooming = true;
    const same = Object.fromEntries(keys.map((key) => [key, change[key]]));
    const others = CHARTS.filter((other) => other !== chart && !other.div.hidden);
    Promise.all(others.map((other) => Plotly.relayout(other.div, same)))
      .finally(() => { zooming = false; showEpoch(current); });
  });
}

// The epoch under the mouse; the one shown where there is none.
const last = Math.max(1, ...data.runs.map((run) => run.epoch[run.epoch.length - 1]));
function epochAt(div, event) {
  const axis = div._fullLayout.xaxis;
  const x = event.clientX - div.getBoundingClientRect().left - axis._offset;
  const epoch = Math.round(axis.p2l(x));
  return x >= 0 && x <= axis._length && epoch >= 1 && epoch <= last ? epoch : current;
}

function showEpoch(epoch) {
  current = epoch;
  byId("epoch").textContent = epoch ?? "–";
  if (epoch === null) return;
  const across = byId("across").value;
  for (const chart of CHARTS) {
    const axes = chart.div._fullLayout;
    if (!axes || chart.div.hidden || across !== "epoch") {
      chart.cursor.style.display = "none";
      continue;
    }
    placeCursor(chart.cursor, axes, epoch);
  }
  if (byId("over").value === "epochs") placeCursor(heatCursor, byId("heat")._fullLayout, epoch);
  else heatCursor.style.display = "none";
  markPath(epoch);
}

function placeCursor(cursor, axes, epoch) {
  if (!axes?.xaxis) return;
  const x = axes.xaxis.l2p(epoch);
  const inside = x >= 0 && x <= axes.xaxis._length;
  Object.assign(cursor.style, {
    display: inside ? "block" : "none",
    left: `${axes.xaxis._offset + x}px`,
    top: `${axes.yaxis._offset}px`,
    height: `${axes.yaxis._length}px`,
  });
}

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
      marker: { color: "#D55E00", size: 8, line: { color: "#ffffff", width: 1 } },
      hovertemplate: "after epoch %{customdata[0]}: loss %{customdata[1]:.4g}<extra></extra>",
    },
    {
      x: [], y: [], mode: "markers", hoverinfo: "skip",
      marker: { color: "#F0E442", size: 15, symbol: "diamond", line: { color: "#000000", width: 1.5 } },
    },
  ], look({
    margin: { l: 60, r: 12, t: 10, b: 50 },
    xaxis: { title: { text: scape.labels[0] }, showgrid: false, zeroline: false },
    yaxis: { title: { text: scape.labels[1] }, showgrid: false, zeroline: false },
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

// What the two frameworks make of the same training; what was asked for; what could not be read.

function showVerdicts() {
  const study = byId("study").value;
  const verdicts = data.verdicts.filter((one) => study === EVERY || one.study === study);
  byId("parity-section").hidden = !verdicts.length;
  byId("parity").replaceChildren();
  for (const verdict of verdicts) {
    const box = element("div", undefined, { class: verdict.identical ? "verdict" : "verdict bad" });
    const title = element("p");
    title.append(element("strong", `${verdict.title}: `),
      verdict.identical ? "given the same gradients, the optimizers are identical" : "the optimizers diverge");
    box.append(title, element("p", verdict.conclusion));
    byId("parity").append(box);
  }
}

function showProblems() {
  byId("problems").hidden = !data.problems.length;
  for (const problem of data.problems) {
    byId("problems").querySelector("ul").append(element("li", `${problem.place}: ${problem.what}`));
  }
}

const DESCRIBED = ["study", "algorithm", "method", "dialect", "lr", "seed", "epochs", "backend", "data", "events"];

// The runs of the study that is open, with the columns that they have.
function fillTable() {
  const shown = ofStudy(byId("study").value);
  const runs = shown.map((i) => data.runs[i]);
  const ofOwn = runs.filter((run) => run.study === data.own).flatMap((run) => Object.keys(run.config));
  const columns = [...new Set([...DESCRIBED, ...ofOwn])]
    .filter((key) => runs.some((run) => (run.config[key] ?? null) !== null));
  const measured = metrics.filter((name) => runs.some((run) => name in run.columns));
  const versions = [...new Set(runs.flatMap((run) => Object.keys(run.versions)))];
  const methods = runs.some((run) => "method" in run.config); // of the epoch, which evaluate and undo
  const end = (values) => (values ? values[values.length - 1] : null);
  const heads = [...columns, "final loss", ...measured.map((name) => name.slice(7).replaceAll("_", " ")),
    ...(methods ? ["loss evaluations", "epochs undone"] : []), ...versions, "folder"];
  const head = element("tr");
  heads.forEach((name, column) => {
    const cell = element("th", name, { scope: "col", title: "Sort" });
    cell.addEventListener("click", () => sortBy(column));
    head.append(cell);
  });
  byId("table").tHead.replaceChildren(head);
  byId("table").tBodies[0].replaceChildren();
  for (const i of shown) {
    const run = data.runs[i];
    const row = element("tr", undefined, { "data-of": i });
    const evaluations = end(run.evaluations) - end(run.epoch);
    const cells = [
      ...columns.map((key) => run.config[key]),
      run.ended ? run.final_loss ?? "not finite" : "not ended",
      ...measured.map((name) => end(run.columns[name])),
      ...(methods ? [evaluations, run.undone.length] : []), ...versions.map((name) => run.versions[name]), run.folder,
    ];
    for (const value of cells) {
      row.append(element("td", value ?? "–", typeof value === "number" ? { class: "number" } : {}));
    }
    byId("table").tBodies[0].append(row);
  }
}

function sortBy(column) {
  const body = byId("table").tBodies[0];
  const value = (row) => row.cells[column].textContent;
  const compare = (a, b) => value(a).localeCompare(value(b), undefined, { numeric: false });
  const byNumber = (a, b) => Number(value(a)) - Number(value(b));
  const numeric = [...body.rows].every((row) => value(row) !== "" && Number.isFinite(Number(value(row))));
  const sorted = [...body.rows].sort(numeric ? byNumber : compare);
  const same = sorted.every((row, i) => row === body.rows[i]);
  body.replaceChildren(...(same ? sorted.reverse() : sorted));
}
