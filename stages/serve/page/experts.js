// Colours of tokens by the number of FFN experts they activated, the legend, and the details of one token.

const LEVELS = 8;
const scale = document.querySelector("#legend .scale");
const caption = document.getElementById("range");
const layers = document.getElementById("layer");
const shown = document.getElementById("counts");
// The same in one line, above the composer of a narrow screen.
const oneLine = document.getElementById("token");
const inspector = document.getElementById("inspector");
// Every coloured piece of text of the conversation: {span, perLayer, tokens}, perLayer the mean of its tokens.
let pieces = [];
let range = null;

for (let level = 0; level < LEVELS; level += 1) {
  const box = document.createElement("span");
  box.className = "token";
  box.dataset.level = level;
  scale.append(box);
}
layers.addEventListener("change", recolour);
shown.addEventListener("change", recolour);

export function wanted() {
  return shown.checked;
}

export function forget() {
  pieces = [];
  range = null;
  inspector.replaceChildren();
  oneLine.textContent = "";
  caption.textContent = "No answer yet.";
}

export function unavailable() {
  caption.textContent = "This server does not report FFN experts.";
}

// Adds a piece of text; `counts` holds, for each of its tokens, the number of FFN experts in each layer.
export function add(span, counts) {
  const piece = { span, perLayer: meanPerLayer(counts), tokens: counts.length };
  pieces.push(piece);
  offerLayers(piece.perLayer.length);
  const value = valueOf(piece);
  if (range && value >= range[0] && value <= range[1]) paint(piece);
  else recolour();
  const inspect = () => show(piece);
  span.addEventListener("pointerenter", inspect);
  span.addEventListener("focus", inspect);
}

function meanPerLayer(counts) {
  return counts[0].map((_, layer) => counts.reduce((sum, token) => sum + token[layer], 0) / counts.length);
}

function mean(numbers) {
  return numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
}

function valueOf(piece) {
  return layers.value === "" ? mean(piece.perLayer) : piece.perLayer[Number(layers.value)] ?? 0;
}

function offerLayers(count) {
  for (let layer = layers.options.length - 1; layer < count; layer += 1) layers.add(new Option(`layer ${layer}`, layer));
}

function recolour() {
  if (!pieces.length) return;
  const values = pieces.map(valueOf);
  range = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  pieces.forEach(paint);
  const what = layers.value === "" ? "per layer, mean of all layers" : `in layer ${layers.value}`;
  caption.textContent = `${number(range[0])} (left) to ${number(range[1])} (right) FFN experts ${what}`;
}

function paint(piece) {
  const [low, high] = range;
  const share = high > low ? (valueOf(piece) - low) / (high - low) : 0.5;
  if (shown.checked) piece.span.dataset.level = Math.min(LEVELS - 1, Math.floor(share * LEVELS));
  else delete piece.span.dataset.level;
}

function show(piece) {
  const title = document.createElement("p");
  const quoted = document.createElement("code");
  quoted.textContent = JSON.stringify(piece.span.textContent);
  const several = piece.tokens > 1 ? ` (mean of ${piece.tokens} tokens)` : "";
  title.append(quoted, ` ${number(mean(piece.perLayer))} FFN experts per layer${several}`);
  oneLine.textContent = title.textContent;
  const list = document.createElement("ol");
  list.start = 0;
  const most = Math.max(1, ...piece.perLayer);
  piece.perLayer.forEach((value, layer) => list.append(row(layer, value, most)));
  inspector.replaceChildren(title, list);
}

function row(layer, value, most) {
  const item = document.createElement("li");
  const bar = document.createElement("meter");
  bar.max = most;
  bar.value = value;
  bar.setAttribute("aria-hidden", "true");
  item.append(`layer ${layer}: ${number(value)} `, bar);
  return item;
}

function number(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}
