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
  const own = name.slice(7);
  const title = { memory: "peak memory (MiB)" }[own] ?? own.replaceAll("_", " ");
  CHARTS.push({ key: name, title, log: own.includes("loss") });
}

const studies = [...new Set(data.runs.map((run) => run.study))];
const EVERY = ""; // the choice of all studies together
const ofStudy = (study) =>
  [...data.runs.keys()].filter((i) => study === EVERY || data.runs[i].study === study);
const MOST = 24; // lines that a study begins with: more cannot be told apart
const chosen = new Set();
// Runs that differ in their seed only; one line stands for all of them, if that is asked for.
const families = new Map();
const familyOf = (i) => families.get(data.runs[i].seedless + data.runs[i].backend);
for (const run of data.runs) families.set(run.seedless + run.backend, []);
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
  const light = (k % 2 ? 38 : 55) + (dark.matches ? 14 : 0);
  return `hsl(${Math.round(137.5 * k) % 360}, 65%, ${light}%)`; // neighbours differ
}
let current = null;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function look(more = {}) {
  const axis = { gridcolor: styleOf("--line"), zerolinecolor: styleOf("--line"), automargin: true };
  const { xaxis, yaxis, ...rest } = more;
  return {
    margin: { l: 60, r: 12, t: 30, b: 42 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: styleOf("--text"), size: 13 },
    hoverlabel: { namelength: -1, bgcolor: styleOf("--panel"), bordercolor: styleOf("--line"), font: { color: styleOf("--text") } },
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

// A logarithmic axis: within few decades with labels at 2 and 5, too, and exponents only where numbers are long.
function logarithmicAxis(values) {
  const known = values.filter((value) => value > 0);
  if (!known.length) return { type: "linear" };
  const low = Math.min(...known), high = Math.max(...known);
  const decades = Math.log10(high / low);
  return {
    type: "log",
    exponentformat: low > 1e-4 && high < 1e5 ? "none" : "e",
    minorloglabels: "complete",
    ...(decades > 0.3 && decades < 3 ? { dtick: "D2" } : {}),
  };
}

// Plotly takes tags in its texts; a name is no tag.
const asText = (name) =>
  name.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const OPTIONS = {
  responsive: true,
  displaylogo: false,
  toImageButtonOptions: { format: "svg" },
  showSendToCloud: false, // nothing leaves the page
};

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
  byId("all").title = byId("none").title = "of the runs in the list";
  byId("all").addEventListener("click", () => choose(shown().flatMap(relatives), true));
  byId("none").addEventListener("click", () => choose(shown().flatMap(relatives), false));
}

function filterRuns() {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const own = new Set(ofStudy(byId("study").value));
  data.runs.forEach((run, i) => {
    const parts = `${run.label} ${run.folder}`.toLowerCase().split(/[\s·/\\]+/);
    const has = (word) => parts.some((part) => (Number.isNaN(Number(word)) ? part.includes(word) : part.startsWith(word)));
    const row = byId("runs").children[i];
    row.hidden = !own.has(i) || !isFirst(i) || !words.every(has);
    const many = relatives(i).length;
    row.querySelector("line").setAttribute("stroke", colour(i));
    row.querySelector("span").textContent = many > 1 ? `${run.family} (${many}\u00a0seeds)` : run.label;
  });
  byId("no-run").hidden = [...byId("runs").children].some((row) => !row.hidden);
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
