// Pictures of one run: its layers and its distributions, over epochs or over steps.

const read = new Map();

// The pictures of a run are text until they are drawn: most never are.
function picturesOf(i) {
  if (!read.has(i)) read.set(i, JSON.parse(data.runs[i]?.pictures ?? "{}"));
  return read.get(i);
}

function offer(id, names, texts = names) {
  const select = byId(id);
  const before = select.value;
  select.replaceChildren(...names.map((name, k) => element("option", texts[k], { value: name })));
  if (names.includes(before)) select.value = before;
  return select.value;
}

const KINDS = ["epochs", "steps"];
const WORDS = {
  step_size: "size of the step", angle: "angle to the previous step", grad_norm: "norm of the gradient",
  update_ratio: "step relative to the parameters", act_zeros: "share of zeros", lr: "learning rate",
};
const spoken = (name) => WORDS[name] ?? name.replaceAll("_", " ").replaceAll("/", ": ");
// What most people look at first; the rest in the order of the rows.
const FIRST = ["step_size", "update_ratio", "angle", "grad_norm"];
const inOrder = (names) => [...FIRST.filter((name) => names.includes(name)),
  ...names.filter((name) => !FIRST.includes(name))];
const BOUNDED = { angle: [0, 180], cosine: [-1, 1], act_zeros: [0, 1], below_noise: [0, 1] };

const mean = (values) => {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : -Infinity;
};

// Layers whose name does not fit are named by its end, which tells them apart.
function fitted(names, div) {
  const most = div.clientWidth < 640 ? 16 : 40;
  const short = names.map((name) => (name.length > most ? `…${name.slice(1 - most)}` : name));
  return short.map((name, k) => asText(short.indexOf(name) === k ? name : names[k]));
}

function drawHeat() {
  const found = picturesOf(selected);
  const over = offer("over", KINDS.filter((kind) => Object.keys(found[kind]?.layers ?? {}).length));
  const picture = found[over];
  const quantities = inOrder(Object.keys(picture?.layers ?? {}));
  const measure = offer("measure", quantities, quantities.map(spoken));
  const div = byId("heat");
  byId("heat-section").hidden = ![...chosen].some((i) => data.runs[i].pictures?.length > 2);
  if (!picture) {
    empty(div, "This run has no layers.");
    return;
  }
  const { names, z } = picture.layers[measure];
  const top = Number(byId("top").value);
  let order = [...names.keys()];
  if (top) order = order.sort((a, b) => mean(z[b]) - mean(z[a])).slice(0, top);
  const rows = order.map((k) => z[k]);
  const range = BOUNDED[measure];
  const positive = rows.flat().filter((value) => value > 0);
  const log = !range && positive.length > 0 && !rows.flat().some((value) => value < 0);
  const shown = log ? rows.map((row) => row.map((v) => (v > 0 ? Math.log10(v) : null))) : rows;
  div.style.height = `${Math.max(220, 90 + 24 * rows.length)}px`;
  const one = over.slice(0, -1);
  Plotly.react(div, [{
    type: "heatmap", x: picture.x, y: order.map((_, k) => k), z: shown, customdata: rows,
    text: order.map((k) => picture.x.map(() => asText(names[k]))),
    colorscale: "Viridis", ...(range ? { zmin: range[0], zmax: range[1] } : {}),
    hovertemplate: `%{text}, ${one} %{x}: %{customdata:.4g}<extra></extra>`,
    colorbar: { thickness: 14, ...(log ? logarithmicBar("", rows) : {}) },
  }], look({
    margin: { l: 60, r: 12, t: 10, b: 42 },
    xaxis: { title: { text: one } },
    yaxis: {
      autorange: "reversed", tickvals: order.map((_, k) => k),
      ticktext: fitted(order.map((k) => names[k]), div),
    },
  }), OPTIONS);
  div.append(heatCursor);
  if (!div.linked) {
    div.linked = true;
    div.addEventListener("mousemove", (event) => {
      if (byId("over").value === "epochs") showEpoch(epochAt(div, event));
    });
  }
  showEpoch(current);
}

function empty(div, text) {
  div.style.height = "120px";
  Plotly.react(div, [], look({
    annotations: [{ text, showarrow: false }], xaxis: { visible: false }, yaxis: { visible: false },
  }), OPTIONS);
}

// Shares of the elements by their size: a line of the picture is a power of 4.
function drawSpread() {
  const has = (i) => KINDS.some((kind) => Object.keys(picturesOf(i)[kind]?.spreads ?? {}).length);
  const section = byId("spread-section");
  section.hidden = ![...chosen].some(has);
  if (section.hidden) return;
  const found = picturesOf(selected);
  const over = offer("spread-over", KINDS.filter((k) => Object.keys(found[k]?.spreads ?? {}).length));
  const spreads = found[over]?.spreads ?? {};
  const profiles = Object.keys(spreads);
  const profile = offer("spread", profiles, profiles.map(spoken));
  const of = offer("spread-of", Object.keys(spreads[profile] ?? {}));
  const div = byId("spread-chart");
  for (const id of ["spread", "spread-of", "spread-over"]) byId(id).parentElement.hidden = !of;
  if (!of) {
    empty(div, "This run has no distributions.");
    return;
  }
  div.style.height = "";
  const z = spreads[profile][of];
  // The first line has the zeros; the others that are used stand right above it.
  const lines = [...z.keys()].slice(1).filter((k) => z[k].some((share) => share > 0));
  const least = Math.min(...lines), most = Math.max(...lines);
  const kept = lines.length ? [0, ...Array(most - least + 1).keys()].map((k, n) => (n ? least + k : 0)) : [0];
  const power = (k) => 2 * k - 42;
  const name = (k) => (k ? `2<sup>${power(k)}</sup> to 2<sup>${power(k) + 2}</sup>` : "zero");
  const stride = Math.max(1, Math.ceil(kept.length / 8));
  const ticks = [...kept.keys()].filter((n) => n === 0 || (n - 1) % stride === 0);
  const one = over.slice(0, -1);
  Plotly.react(div, [{
    type: "heatmap", x: found[over].x, y: [...kept.keys()], z: kept.map((k) => z[k]),
    colorscale: "Viridis", zmin: 0, text: kept.map((k) => found[over].x.map(() => name(k))),
    hovertemplate: `${one} %{x}, %{text}: %{z:.3g}<extra></extra>`,
    colorbar: { thickness: 14, tickformat: ".0%" },
  }], look({
    margin: { l: 60, r: 12, t: 10, b: 42 },
    xaxis: { title: { text: one } },
    yaxis: {
      title: { text: "magnitude of an element" }, tickvals: ticks,
      ticktext: ticks.map((n) => (n ? `2<sup>${power(kept[n])}</sup>` : "0")),
    },
  }), OPTIONS);
}

const MOST_LINES = 30;

function showAlerts() {
  const lines = [...chosen].sort((a, b) => a - b).flatMap((i) =>
    (data.runs[i].alerts ?? []).map(({ at, alert, layer, value }) =>
      `${data.runs[i].label}, ${at}: ${alert}${layer ? `, ${layer}` : ""} (${value ?? "not finite"})`));
  byId("alerts-section").hidden = !lines.length;
  const more = lines.length - MOST_LINES;
  byId("alerts").replaceChildren(
    ...lines.slice(0, MOST_LINES).map((line) => element("li", line)),
    ...(more > 0 ? [element("li", `and ${more} more`)] : []));
}
