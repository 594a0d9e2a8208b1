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
      // Plotly draws a chart a second time for automatic margins: the labels here are short.
      xaxis: { title: { text: across }, automargin: false },
      yaxis: {
        automargin: false,
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
    hovertemplate: "%{fullData.name}<br>%{y:.4g}, epoch %{customdata}<extra></extra>",
  };
  if (runs.length === 1) return [line];
  const own = runs.map((i) => data.runs[i]);
  const longest = own.reduce((a, b) => (a.epoch.length >= b.epoch.length ? a : b));
  const points = longest.epoch.map((epoch, k) => ({
    epoch,
    x: middle(own.map((run) => run[across][k])),
    values: finite(own.map((run) => run.columns[key][k])),
  }));
  const there = points.filter((point) => point.values.length), back = [...there].reverse();
  const band = {
    x: [...there, ...back].map((point) => point.x),
    y: [...there.map((point) => point.values[0]), ...back.map((point) => point.values.at(-1))],
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
  if (!some.length) return null;
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
  byId("epoch").textContent = epoch ?? "";
  byId("epoch").parentElement.hidden = epoch === null;
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
