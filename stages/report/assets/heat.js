// A heat map of expert load: horizontal axis: steps or tokens, one row per expert, colour: load relative to the mean.

const HEAT = {
  light: [[33, 90, 168], [118, 164, 214], [240, 239, 235], [233, 154, 92], [168, 52, 20]],
  dark: [[104, 164, 245], [52, 92, 150], [38, 41, 46], [176, 96, 40], [250, 150, 84]],
};
const NEVER = { light: [12, 34, 70], dark: [160, 200, 255] };

// Colour for a load relative to the mean, from a quarter to four times, on a logarithmic scale.
function heatColour(ratio) {
  const theme = view.dark ? "dark" : "light";
  if (ratio <= 0) return NEVER[theme];
  const colours = HEAT[theme], at = Math.min(1, Math.max(0, (Math.log2(ratio) + 2) / 4)) * (colours.length - 1), left = Math.min(Math.floor(at), colours.length - 2);
  return colours[left].map((value, i) => value + (colours[left + 1][i] - value) * (at - left));
}

class HeatPanel {
  constructor(panel) {
    this.panel = panel;
    this.load = data.loads[panel.load];
    this.cells = this.load.bytes || (this.load.bytes = Uint8Array.from(atob(this.load.cells), (letter) => letter.charCodeAt(0)));
    this.layer = panel.layers[0];
    this.root = element("article", "panel");
    const head = element("div", "head");
    head.append(element("h3", "", panel.title), element("span", "note", this.load.network < this.load.experts ? "z: zero-computation" : ""));
    if (panel.layers.length > 1) {
      this.shownLayer = element("span", "on-paper");
      head.append(this.choice(), this.shownLayer);
    }
    this.plot = element("div", "plot");
    this.tip = element("div", "tip");
    this.tip.hidden = true;
    this.root.append(head, this.plot, this.key());
    this.plot.addEventListener("pointermove", (event) => this.read(event));
    this.plot.addEventListener("pointerleave", () => hover(null, this));
    this.plot.addEventListener("dblclick", () => zoom(null));
  }

  choice() {
    const select = element("select");
    select.setAttribute("aria-label", "Layer");
    for (const layer of this.panel.layers) select.add(new Option(`layer ${layer}`, String(layer)));
    select.onchange = () => { this.layer = Number(select.value); this.draw(); };
    return select;
  }

  key() {
    const key = element("div", "scale");
    this.bar = element("i");
    key.append(element("span", "", "¼"), this.bar, element("span", "", "4 times the mean load per expert"));
    return key;
  }

  ratio(expert, bin) {
    const { experts, x } = this.load;
    return this.cells[(this.layer * experts + expert) * x.length + bin] / 64;
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    const stops = [-2, -1, 0, 1, 2].map((power) => `rgb(${heatColour(2 ** power).map(Math.round).join(",")})`);
    if (this.shownLayer) this.shownLayer.textContent = `layer ${this.layer}`;
    this.bar.style.background = `linear-gradient(90deg, ${stops.join(",")})`;
    const { experts, network, x: ends } = this.load, run = data.runs[this.load.run], domain = view.domain || extent(data.runs);
    const left = 40, right = width - 10, floor = PLOT_HEIGHT - BOTTOM, gap = network < experts ? 5 : 0;
    this.frame = { left, right, width };
    this.x = makeScale(domain[0], domain[1], left, right, false);
    const row = (floor - TOP - gap) / experts;
    this.top = (expert) => TOP + expert * row + (expert >= network ? gap : 0);
    this.edges = [position(run, Math.max((run.steps[0] ?? ends[0]) - 1, 0)), ...ends.map((step) => position(run, step))];
    const canvas = element("canvas"), ratio = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: width * ratio, height: PLOT_HEIGHT * ratio });
    Object.assign(canvas.style, { width: `${width}px`, height: `${PLOT_HEIGHT}px` });
    const brush = canvas.getContext("2d");
    brush.scale(ratio, ratio);
    brush.beginPath();
    brush.rect(left, 0, right - left, PLOT_HEIGHT);
    brush.save();
    brush.clip();
    this.paint(brush, row);
    brush.restore();
    const svg = make("svg", { width, height: PLOT_HEIGHT, viewBox: `0 0 ${width} ${PLOT_HEIGHT}`, role: "img", "aria-label": this.panel.title });
    Object.assign(svg.style, { position: "absolute", left: 0, top: 0 });
    this.drawAxes(svg, domain, row);
    this.over = make("g", {}, svg);
    this.plot.replaceChildren(canvas, svg, this.tip);
  }

  paint(brush, row) {
    for (let bin = 0; bin < this.load.x.length; bin++) {
      const from = this.x(this.edges[bin]), to = this.x(this.edges[bin + 1]);
      if (to < this.frame.left || from > this.frame.right) continue;
      for (let expert = 0; expert < this.load.experts; expert++) {
        brush.fillStyle = `rgb(${heatColour(this.ratio(expert, bin)).map(Math.round).join(",")})`;
        brush.fillRect(from, this.top(expert), to - from + 0.6, row + (row < 4 ? 0.6 : -0.5));
      }
    }
  }

  drawAxes(svg, domain, row) {
    const { left, right } = this.frame, { experts, network } = this.load, floor = PLOT_HEIGHT - BOTTOM;
    for (const tick of linearTicks(domain[0], domain[1], Math.max(2, Math.floor((right - left) / 75)))) {
      const x = this.x(tick);
      make("line", { class: "axis", x1: x, x2: x, y1: floor, y2: floor + 4 }, svg);
      make("text", { x, y: floor + 17, "text-anchor": x > right - 14 ? "end" : "middle" }, svg).textContent = si(tick, 6);
    }
    const every = Math.max(1, niceStep(experts, Math.floor((floor - TOP) / 26)));
    const label = (expert, text) => { make("text", { x: left - 7, y: this.top(expert) + Math.min(row, 14) / 2 + 4, "text-anchor": "end" }, svg).textContent = text; };
    for (let expert = 0; expert < network; expert += every) label(expert, String(expert));
    for (let expert = network; expert < experts; expert += every) label(expert, `z${expert - network}`);
  }

  read(event) {
    if (!this.x) return;
    const box = this.plot.getBoundingClientRect();
    this.pointer = event.clientY - box.top;
    hover(this.x.invert(event.clientX - box.left), this);
  }

  point(place, here) {
    if (!this.over) return;
    this.over.replaceChildren();
    this.tip.hidden = true;
    if (place === null) return;
    const x = this.x(place);
    if (x < this.frame.left || x > this.frame.right) return;
    make("line", { class: "cross", x1: x, x2: x, y1: TOP, y2: PLOT_HEIGHT - BOTTOM }, this.over);
    const bin = this.edges.findIndex((edge) => edge >= place) - 1, { experts, network } = this.load;
    if (!here || bin < 0) return;
    let expert = experts - 1;
    while (expert > 0 && this.top(expert) > this.pointer) expert--;
    const kind = expert < network ? `expert ${expert}` : `zero-computation expert ${expert - network}`;
    this.tip.replaceChildren(element("div", "more", `up to step ${this.load.x[bin].toLocaleString("en")}`));
    const line = element("div", "", kind);
    line.append(element("b", "value", `${this.ratio(expert, bin).toFixed(2)} × mean`));
    this.tip.append(line);
    this.tip.hidden = false;
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${x + 14 + width < this.frame.width ? x + 14 : Math.max(0, x - 14 - width)}px`;
    this.tip.style.top = `${Math.max(0, this.pointer - 52)}px`;
  }
}
