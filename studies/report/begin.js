// Begin.

function summary() {
  const words = studies.filter((name) => name !== data.own)
    .map((name) => name.replaceAll("_", " ")).join(", ");
  byId("summary").textContent = `${data.runs.length} ${data.runs.length === 1 ? "run" : "runs"}${words ? ` of ${words}` : ""}, optstudy ${data.version}`;
}

summary();
showProblems();
listRuns();
listStudies();
makeCharts();
openStudy();
byId("across").addEventListener("change", drawCharts);
byId("log").addEventListener("change", () => { drawCharts(); drawPair(); });
byId("together").addEventListener("change", beginLines);
for (const id of ["measure", "over", "top"]) byId(id).addEventListener("change", drawHeat);
for (const id of ["spread", "spread-of", "spread-over"]) byId(id).addEventListener("change", drawSpread);
for (const id of ["pair-a", "pair-b"]) byId(id).addEventListener("change", drawPair);
byId("pair-only").addEventListener("click", showPair);
byId("along").addEventListener("change", drawRun);
byId("event").addEventListener("change", drawRun);
for (const select of document.querySelectorAll("select.run")) {
  select.addEventListener("change", () => { selected = Number(select.value); fillSelects(); });
}
dark.addEventListener("change", () => { drawCharts(); drawRun(); drawPair(); });
document.body.dataset.ready = "true";
requestAnimationFrame(() => setTimeout(() => {
  opening = false;
  drawRest();
  document.body.dataset.drawn = "true";
}));
