// The page: view state and panels.

const data = JSON.parse(document.getElementById("data").textContent);
const view = { axis: "step", domain: null, smooth: 25, dark: false, hiddenRuns: new Set() };
const panels = [];
for (const panel of data.sections.flatMap((section) => section.panels)) for (const line of panel.lines || []) line.x = data.steps[line.x];

const position = (run, step) => (view.axis === "step" ? step : tokensAt(run, step));

function extent(runs) {
  const shown = runs.filter((run, number) => run.steps.length && !view.hiddenRuns.has(number)), chosen = shown.length ? shown : runs.filter((run) => run.steps.length);
  if (!chosen.length) return wholeOfLines();
  const low = Math.min(...chosen.map((run) => position(run, run.steps[0]))), high = Math.max(...chosen.map((run) => position(run, run.steps[run.steps.length - 1])));
  return high > low ? [low, high] : [low - 1, high + 1];
}

// For metrics without token counts.
function wholeOfLines() {
  const steps = data.sections.flatMap((section) => section.panels).flatMap((panel) => panel.lines || []).flatMap((line) => [line.x[0], line.x[line.x.length - 1]]);
  const low = Math.min(...steps), high = Math.max(...steps);
  return high > low ? [low, high] : [low - 1, low + 1];
}

const redraw = () => panels.forEach((panel) => panel.draw());

function hover(place, source) {
  panels.forEach((panel) => panel.point(place, panel === source));
}

function zoom(domain) {
  view.domain = domain && domain[1] > domain[0] ? domain : null;
  document.getElementById("unzoom").hidden = view.domain === null;
  redraw();
}

function setTheme(dark) {
  view.dark = dark;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  redraw();
}

function wireControls() {
  for (const button of document.querySelectorAll("[data-axis]"))
    button.onclick = () => {
      view.axis = button.dataset.axis;
      for (const other of document.querySelectorAll("[data-axis]")) other.setAttribute("aria-pressed", String(other === button));
      zoom(null);
    };
  document.getElementById("smooth").oninput = (event) => { view.smooth = Number(event.target.value); redraw(); };
  document.getElementById("unzoom").onclick = () => zoom(null);
  document.getElementById("theme").onclick = () => {
    setTheme(!view.dark);
    try { localStorage.setItem("longcat-report-theme", view.dark ? "dark" : "light"); } catch { /* a page opened from disk may have no storage */ }
  };
}

function fillRuns() {
  if (data.runs.length < 2) return;
  data.runs.forEach((run, number) => {
    const button = element("button"), swatch = element("span", "swatch");
    swatch.style.background = `var(--c${number % 8})`;
    button.type = "button";
    button.setAttribute("aria-pressed", "true");
    button.append(swatch, document.createTextNode(run.name));
    button.onclick = () => {
      view.hiddenRuns.has(number) ? view.hiddenRuns.delete(number) : view.hiddenRuns.add(number);
      button.setAttribute("aria-pressed", String(!view.hiddenRuns.has(number)));
      redraw();
    };
    document.getElementById("runs").append(button);
  });
}

function fillSections() {
  const place = document.getElementById("sections");
  for (const section of data.sections) {
    const part = element("section"), count = section.panels.length, grid = element("div", count === 2 || count % 3 === 1 ? "panels wide" : "panels");
    part.append(element("h2", "", section.title), grid);
    place.append(part);
    for (const item of section.panels) {
      const panel = item.type === "heat" ? new HeatPanel(item) : new LinesPanel(item);
      panels.push(panel);
      grid.append(panel.root);
    }
  }
}

// For print: light colours, page width, all sections expanded. The previous state is restored afterwards.
function wirePrint() {
  let before = null;
  addEventListener("beforeprint", () => {
    if (before) return;
    const folded = [...document.querySelectorAll("details:not([open])")];
    before = { dark: view.dark, folded };
    for (const details of folded) details.open = true;
    document.documentElement.classList.add("printing");
    setTheme(false);
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    for (const details of before.folded) details.open = false;
    document.documentElement.classList.remove("printing");
    setTheme(before.dark);
    before = null;
  });
}

function storedTheme() {
  try { return localStorage.getItem("longcat-report-theme"); } catch { return null; }
}

fillRuns();
fillSections();
wireControls();
wirePrint();
if (data.runs.length === 1) document.body.classList.add("alone");
document.querySelector("main .table").classList.add("tiles");
const stored = storedTheme();
setTheme(stored ? stored === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
new ResizeObserver(redraw).observe(document.querySelector("main"));
