// A panel of curves: drawing, legend, tooltip, zoom.

const SVG = "http://www.w3.org/2000/svg", PLOT_HEIGHT = 218, BOTTOM = 24, TOP = 8, MOST_BANDS = 8;
const RAMP = { light: [[62, 36, 110], [44, 112, 176], [38, 160, 120], [196, 148, 22]], dark: [[158, 128, 235], [98, 166, 240], [84, 204, 160], [240, 208, 92]] };

function make(name, attributes = {}, parent = null) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function element(name, className = "", text = "") {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function ramp(place) {
  const colours = RAMP[view.dark ? "dark" : "light"], at = place * (colours.length - 1), left = Math.min(Math.floor(at), colours.length - 2);
  const mixed = colours[left].map((value, i) => Math.round(value + (colours[left + 1][i] - value) * (at - left)));
  return `rgb(${mixed.join(",")})`;
}

function colourOf(line) {
  if (line.hue === "layer") return ramp(line.place);
  return `var(--c${(line.hue === "series" ? line.place : line.run) % 8})`;
}

const positionsOf = (line) => (view.axis === "step" ? line.x : line.x.map((step) => tokensAt(data.runs[line.run], step)));

class LinesPanel {
  constructor(panel) {
    this.panel = panel;
    this.log = panel.log;
    this.hidden = new Set();
    this.root = element("article", "panel");
    const head = element("div", "head");
    head.append(element("h3", "", panel.title), element("span", "note", panel.note));
    const toggle = element("button", "", "log");
    toggle.type = "button";
    toggle.title = "Logarithmic or linear axis";
    toggle.onclick = () => { this.log = !this.log; this.draw(); };
    this.toggle = toggle;
    head.append(toggle);
    this.plot = element("div", "plot");
    this.legend = element("div", "legend");
    this.tip = element("div", "tip");
    this.tip.hidden = true;
    this.omitted = element("div", "omitted");
    this.root.append(head, this.plot, this.omitted, this.legend);
    this.fillLegend();
    this.listen();
  }

  fillLegend() {
    const lines = this.panel.lines;
    if (lines.length < 2) return;
    lines.forEach((line, index) => {
      const button = element("button"), swatch = element("span", line.points ? "swatch dotted" : "swatch");
      swatch.style.background = colourOf(line);
      button.type = "button";
      button.append(swatch, document.createTextNode(line.name));
      button.title = "Click: hide or show. Double-click: show only this one.";
      button.onclick = () => { this.hidden.has(index) ? this.hidden.delete(index) : this.hidden.add(index); this.draw(); };
      button.ondblclick = () => {
        const others = lines.map((_, i) => i).filter((i) => i !== index), alone = others.every((i) => this.hidden.has(i));
        this.hidden = new Set(alone ? [] : others);
        this.draw();
      };
      this.legend.append(button);
    });
  }

  shown() {
    return this.panel.lines.filter((line, index) => !this.hidden.has(index) && !view.hiddenRuns.has(line.run));
  }

  // The parts of a line to draw: positions, the strong curve, and the pale curve behind it.
  prepare(line) {
    const span = this.panel.smooth && !line.points ? (view.smooth / 100) ** 2 * 0.1 * line.x.length : 0;
    const strong = span < 0.5 ? line.y : smoothed(line.y, span);
    return { line, at: positionsOf(line), strong, pale: strong === line.y ? null : line.y };
  }

  valueRange(prepared, [left, right]) {
    let low = Infinity, high = -Infinity;
    const see = (value) => {
      if (value === null || (this.log && value <= 0)) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    };
    for (const { line, at } of prepared)
      at.forEach((x, i) => {
        if (x < left || x > right) return;
        see(line.y[i]);
        if (line.low) { see(line.low[i]); see(line.high[i]); }
      });
    for (const target of this.panel.targets) if (!target.optional || (target.value > low && target.value < high * 1.4)) see(target.value);
    if (low > high) return null;
    if (this.log) return low === high ? [low / 2, high * 2] : [low / 1.12, high * 1.12];
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    this.toggle.setAttribute("aria-pressed", String(this.log));
    [...this.legend.children].forEach((button, index) => {
      button.setAttribute("aria-pressed", String(!this.hidden.has(index)));
      button.firstChild.style.background = colourOf(this.panel.lines[index]);
    });
    this.prepared = this.shown().map((line) => this.prepare(line));
    const domain = view.domain || extent(data.runs), range = this.valueRange(this.prepared, domain) || [0.1, 1];
    const ticks = (this.log ? logTicks : linearTicks)(range[0], range[1], 5), names = ticks.map((tick) => written(this.panel.unit, tick));
    const left = Math.max(30, ...names.map((name) => name.length * 6.6 + 10));
    this.x = makeScale(domain[0], domain[1], left, width - 10, false);
    this.y = makeScale(range[0], range[1], PLOT_HEIGHT - BOTTOM, TOP, this.log);
    this.frame = { left, right: width - 10, width };
    const svg = make("svg", { width, height: PLOT_HEIGHT, viewBox: `0 0 ${width} ${PLOT_HEIGHT}`, role: "img", "aria-label": this.panel.title });
    this.drawGrid(svg, ticks, names, domain);
    const window = `plot-${panels.indexOf(this)}`, clip = make("clipPath", { id: window }, svg);
    make("rect", { x: left - 1, y: 0, width: width - left - 8, height: PLOT_HEIGHT - BOTTOM + 2 }, clip);
    const inside = make("g", { "clip-path": `url(#${window})` }, svg);
    this.drawMarks(inside);
    for (const item of this.prepared) this.drawLine(inside, item);
    this.drawTargets(svg, range);
    this.showOmitted(domain);
    this.over = make("g", {}, svg);
    this.plot.replaceChildren(svg, this.tip);
  }

  drawGrid(svg, ticks, names, domain) {
    const { left, right } = this.frame, grid = make("g", { class: "grid" }, svg), floor = PLOT_HEIGHT - BOTTOM;
    ticks.forEach((tick, i) => {
      const y = Math.round(this.y(tick)) + 0.5;
      make("line", { x1: left, x2: right, y1: y, y2: y }, grid);
      make("text", { x: left - 7, y: y + 4, "text-anchor": "end" }, svg).textContent = names[i];
    });
    make("line", { class: "axis", x1: left, x2: right, y1: floor + 0.5, y2: floor + 0.5 }, svg);
    const shown = linearTicks(domain[0], domain[1], Math.max(2, Math.floor((right - left) / 75)));
    for (const tick of shown) {
      const x = this.x(tick), anchor = x > right - 14 ? "end" : "middle";
      make("line", { class: "axis", x1: x, x2: x, y1: floor, y2: floor + 4 }, svg);
      make("text", { x, y: floor + 17, "text-anchor": anchor }, svg).textContent = si(tick, 6);
    }
  }

  drawTargets(svg, range) {
    const { left, right } = this.frame;
    for (const target of this.panel.targets) {
      if (target.value < range[0] || target.value > range[1]) continue;
      const y = this.y(target.value);
      make("line", { class: "target", x1: left, x2: right, y1: y, y2: y }, svg);
      make("text", { class: "target-name halo", x: right - 4, y: y < TOP + 18 ? y + 14 : y - 5, "text-anchor": "end" }, svg).textContent = target.name;
    }
  }

  showOmitted([left, right]) {
    const count = this.prepared.reduce((sum, { line, at }) => sum + line.y.filter((value, i) => value !== null && !this.drawable(value) && at[i] >= left && at[i] <= right).length, 0);
    this.omitted.textContent = count ? `${count.toLocaleString("en")} ${count > 1 ? "values" : "value"} of 0 or less cannot be shown on a logarithmic axis` : "";
  }

  drawMarks(group) {
    if (!this.panel.marks) return;
    const floor = PLOT_HEIGHT - BOTTOM;
    data.runs.forEach((run, number) => {
      if (view.hiddenRuns.has(number)) return;
      for (const step of run.skipped) {
        const x = this.x(position(run, step));
        make("title", {}, make("line", { class: "skip", x1: x, x2: x, y1: floor - 9, y2: floor }, group)).textContent = `step ${step} was skipped`;
      }
      for (const [from, to, samples] of run.rewound) {
        const x = this.x(position(run, from)), line = make("line", { class: "rewind", x1: x, x2: x, y1: TOP, y2: floor }, group);
        make("title", {}, line).textContent = `rewound from step ${from} to ${to}, ${samples} samples skipped`;
      }
    });
  }

  // Whether a value can be drawn: null cannot, and values of 0 or less cannot on a logarithmic axis.
  drawable(value) {
    return value !== null && value !== undefined && !(this.log && value <= 0);
  }

  path(at, values) {
    return stretches(values, (value) => this.drawable(value))
      .map((places) => `M${places.map((i) => `${this.x(at[i]).toFixed(1)} ${this.y(values[i]).toFixed(1)}`).join("L")}`)
      .join("");
  }

  // A path of a single point has no length and would be invisible, so it is drawn as a dot.
  drawAlone(group, at, values, attributes) {
    for (const [i, ...more] of stretches(values, (value) => this.drawable(value)))
      if (!more.length) make("circle", { cx: this.x(at[i]).toFixed(1), cy: this.y(values[i]).toFixed(1), ...attributes }, group);
  }

  drawLine(group, { line, at, strong, pale }) {
    const colour = colourOf(line), style = `stroke:${colour}`;
    if (line.points) {
      at.forEach((x, i) => {
        if (this.drawable(line.y[i])) make("circle", { class: "dot", cx: this.x(x), cy: this.y(line.y[i]), r: at.length > 60 ? 2.5 : 4, style: `fill:${colour}` }, group);
      });
      return;
    }
    // With many curves the bands would cover each other.
    if (line.low && this.prepared.length <= MOST_BANDS) make("path", { class: "band", d: this.band(at, line), style: `fill:${colour};stroke:${colour}` }, group);
    else if (pale) make("path", { class: "line raw", d: this.path(at, pale), style }, group);
    make("path", { class: "line", d: this.path(at, strong), style }, group);
    this.drawAlone(group, at, strong, { class: "alone", r: 3, style: `fill:${colour}` });
  }

  // The band has gaps where the line has gaps.
  band(at, line) {
    const floor = this.y.invert(PLOT_HEIGHT - BOTTOM), both = line.high.map((high, i) => (line.low[i] === null ? null : high));
    return stretches(both, (value) => this.drawable(value))
      .map((places) => {
        const there = places.map((i) => `${this.x(at[i]).toFixed(1)} ${this.y(line.high[i]).toFixed(1)}`);
        const back = places.map((i) => `${this.x(at[i]).toFixed(1)} ${this.y(this.drawable(line.low[i]) ? line.low[i] : floor).toFixed(1)}`);
        return `M${there.join("L")}L${back.reverse().join("L")}Z`;
      })
      .join("");
  }

  listen() {
    let start = null;
    const at = (event) => event.clientX - this.plot.getBoundingClientRect().left;
    this.plot.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") start = at(event); });
    this.plot.addEventListener("pointermove", (event) => { hover(this.x ? this.x.invert(at(event)) : null, this); if (start !== null) this.brush(start, at(event)); });
    this.plot.addEventListener("pointerleave", () => { start = null; hover(null, this); });
    this.plot.addEventListener("pointerup", (event) => {
      if (start !== null && Math.abs(at(event) - start) > 8) {
        const ends = [this.x.invert(start), this.x.invert(at(event))].sort((a, b) => a - b), whole = extent(data.runs);
        zoom([Math.max(ends[0], whole[0]), Math.min(ends[1], whole[1])]);
      }
      start = null;
    });
    this.plot.addEventListener("dblclick", () => zoom(null));
  }

  brush(from, to) {
    make("rect", { class: "brush", x: Math.min(from, to), y: TOP, width: Math.abs(to - from), height: PLOT_HEIGHT - BOTTOM - TOP }, this.over);
  }

  // The cross hair at a position of the horizontal axis (null: none), and the tooltip if the mouse is over this panel.
  point(place, here) {
    if (!this.over) return;
    this.over.replaceChildren();
    this.tip.hidden = true;
    if (place === null) return;
    const x = this.x(place);
    if (x < this.frame.left || x > this.frame.right) return;
    make("line", { class: "cross", x1: x, x2: x, y1: TOP, y2: PLOT_HEIGHT - BOTTOM }, this.over);
    if (!here) return;
    const found = [];
    for (const { line, at, strong } of this.prepared) {
      if (!at.length) continue;
      const i = nearest(at, place), gap = at.length > 1 ? (at[at.length - 1] - at[0]) / (at.length - 1) : Infinity;
      if (strong[i] === null || Math.abs(at[i] - place) > Math.max(1.5 * gap, (extent(data.runs)[1] - extent(data.runs)[0]) * 0.01)) continue;
      found.push({ line, i, value: strong[i] });
      if (this.drawable(strong[i])) make("circle", { class: "dot", cx: this.x(at[i]), cy: this.y(strong[i]), r: 4, style: `fill:${colourOf(line)}` }, this.over);
    }
    if (found.length) this.showTip(found, x);
  }

  showTip(found, x) {
    const first = found[0], step = first.line.x[first.i], tokens = tokensAt(data.runs[first.line.run], step);
    this.tip.replaceChildren(element("div", "more", `step ${step.toLocaleString("en")} · ${si(tokens, 4)} tokens`));
    found.sort((a, b) => b.value - a.value);
    for (const { line, i, value } of found.slice(0, 14)) {
      const row = element("div"), swatch = element("span", line.points ? "swatch dotted" : "swatch");
      swatch.style.background = colourOf(line);
      row.append(swatch, document.createTextNode(line.name), element("b", "value", written(this.panel.unit, value, 5)));
      this.tip.append(row);
      if (line.low && found.length <= 3 && line.low[i] !== null) this.tip.append(element("div", "more", `from ${written(this.panel.unit, line.low[i])} to ${written(this.panel.unit, line.high[i])}`));
    }
    if (found.length > 14) this.tip.append(element("div", "more", `${found.length - 14} more`));
    this.tip.hidden = false;
    const width = this.tip.offsetWidth, right = x + 14 + width < this.frame.width;
    this.tip.style.left = `${Math.max(0, right ? x + 14 : x - 14 - width)}px`;
    this.tip.style.top = `${TOP + 4}px`;
  }
}
