// Two runs above each other, and what tells them apart.

function offerPair() {
  const some = [...chosen].sort((a, b) => a - b);
  byId("pair-section").hidden = data.runs.length < 2 || some.length < 2;
  if (byId("pair-section").hidden) return;
  const texts = some.map((i) => data.runs[i].label);
  const names = some.map(String);
  offer("pair-a", names, texts);
  const fresh = !byId("pair-b").options.length;
  offer("pair-b", names, texts);
  if (fresh || byId("pair-b").value === byId("pair-a").value) {
    byId("pair-b").value = names.find((name) => name !== byId("pair-a").value);
  }
  drawPair();
}

const pair = () => [Number(byId("pair-a").value), Number(byId("pair-b").value)];

function drawPair() {
  if (byId("pair-section").hidden) return;
  const [a, b] = pair().map((i) => data.runs[i]);
  const rows = [["configuration", "config"], ["versions and code", "versions"]].flatMap(([kind, field]) => {
    const keys = [...new Set([...Object.keys(a[field]), ...Object.keys(b[field])])];
    return keys.filter((key) => (a[field][key] ?? null) !== (b[field][key] ?? null))
      .map((key) => [kind, key, a[field][key] ?? "–", b[field][key] ?? "–"]);
  });
  const end = (run, name) => run.columns[name]?.at(-1);
  const numbers = [["final loss", a.final_loss, b.final_loss], ["epochs", a.epoch.length, b.epoch.length],
    ...metrics.map((name) => [`last ${name.slice(7).replaceAll("_", " ")}`, end(a, name), end(b, name)])];
  for (const [name, one, other] of numbers) {
    if (one !== other) rows.push(["result", name, one ?? "–", other ?? "–"]);
  }
  byId("pair-table").tBodies[0].replaceChildren(...rows.map((cells) => {
    const row = element("tr");
    row.append(...cells.map((cell) => element("td", cell)));
    return row;
  }));
  byId("pair-table").hidden = !rows.length;
  byId("pair-same").hidden = rows.length > 0;
  const looks = [["#0072B2", "solid"], ["#D55E00", "dash"]];
  const traces = [a, b].map((run, k) => ({
    // Of arrays that it knows, Plotly would find no range again once the picture was hidden.
    x: [...run.epoch], y: [...run.columns.loss ?? []], name: k ? "B" : "A", mode: "lines",
    line: { color: looks[k][0], dash: looks[k][1], width: 2 },
    hovertemplate: "%{fullData.name}: %{y:.4g}, epoch %{x}<extra></extra>",
  }));
  const log = byId("log").checked && traces.every((t) => t.y.every((y) => y === null || y > 0));
  Plotly.react(byId("pair-chart"), traces, look({
    margin: { l: 60, r: 12, t: 10, b: 42 },
    showlegend: true, legend: { orientation: "h", y: 1.14 },
    xaxis: { title: { text: "epoch" } },
    yaxis: { title: { text: "training loss" }, ...(log ? logarithmicAxis(traces.flatMap((t) => t.y)) : {}) },
  }), OPTIONS);
}

function showPair() {
  const both = new Set(pair());
  for (const i of data.runs.keys()) set(i, both.has(i));
  show();
}
