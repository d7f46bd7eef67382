"use strict";
// Scales, ticks and number formatting.

function niceStep(span, count) {
  const rough = span / Math.max(1, count), power = 10 ** Math.floor(Math.log10(rough)), part = rough / power;
  return (part < 1.5 ? 1 : part < 3.5 ? 2 : part < 7.5 ? 5 : 10) * power;
}

function linearTicks(low, high, count) {
  const step = niceStep(high - low || 1, count), ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(k * step);
  return ticks;
}

function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high)), decades = last - first;
  const within = (tick) => tick >= low * 0.999 && tick <= high * 1.001;
  const every = Math.max(1, Math.ceil(decades / count)), ticks = [];
  for (let power = first; power <= last; power++) {
    if (power % every) continue;
    for (const part of decades <= 3 ? [1, 2, 5] : [1]) ticks.push(part * 10 ** power);
  }
  const shown = ticks.filter(within);
  return shown.length >= 2 ? shown : linearTicks(low, high, count).filter((tick) => tick > 0);
}

// A scale from data to pixels; `log` needs a positive domain.
function makeScale(low, high, start, end, log) {
  const f = log ? Math.log : (v) => v, a = f(low), b = f(high), span = b - a || 1;
  const scale = (value) => start + ((f(value) - a) / span) * (end - start);
  scale.invert = (pixel) => {
    const at = a + ((pixel - start) / (end - start)) * span;
    return log ? Math.exp(at) : at;
  };
  return scale;
}

function plain(value, digits) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e7) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    return `${Number(mantissa)}e${Number(power)}`;
  }
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 10 });
}

function si(value, digits) {
  for (const [unit, factor] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]])
    if (Math.abs(value) >= factor) return `${Number((value / factor).toPrecision(digits))}${unit}`;
  return String(Number(value.toPrecision(digits)));
}

function bytes(value, digits) {
  for (const [unit, factor] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (value >= factor) return `${Number((value / factor).toPrecision(digits))} ${unit}`;
  return `${value} B`;
}

function seconds(value, digits) {
  return value < 1 ? `${Number((value * 1e3).toPrecision(digits))} ms` : `${Number(value.toPrecision(digits))} s`;
}

const WRITERS = { number: plain, si, bytes, seconds, percent: (value, digits) => `${Number((value * 100).toPrecision(digits))} %` };
const written = (unit, value, digits = 4) => (value === null || value === undefined ? "none" : WRITERS[unit](value, digits));

// Tokens at a step of a run: exact, because tokens increase linearly between the points stored in the page.
function tokensAt(run, step) {
  const { steps, tokens } = run;
  if (steps.length < 2) return tokens.length ? tokens[0] : step;
  let low = 0, high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  return tokens[low] + ((tokens[high] - tokens[low]) * (step - steps[low])) / (steps[high] - steps[low]);
}

// Moving average with weights that decay to 1/e over `span` points on both sides, so the result does not lag.
function smoothed(values, span) {
  const keep = Math.exp(-1 / span), count = values.length, sums = new Float64Array(count), weights = new Float64Array(count);
  const pass = (from, step) => {
    let sum = 0, weight = 0;
    for (let i = from; i >= 0 && i < count; i += step) {
      // A point is counted in only one of the two passes.
      if (step < 0) { sums[i] += sum * keep; weights[i] += weight * keep; }
      sum = sum * keep + (values[i] ?? 0);
      weight = weight * keep + (values[i] === null ? 0 : 1);
      if (step > 0) { sums[i] += sum; weights[i] += weight; }
    }
  };
  pass(0, 1);
  pass(count - 1, -1);
  return values.map((value, i) => (value === null ? null : sums[i] / weights[i]));
}

// Indices of consecutive drawable values, one list per run of values without a gap.
function stretches(values, drawable) {
  const found = [];
  let open = null;
  values.forEach((value, i) => {
    if (!drawable(value)) open = null;
    else if (open) open.push(i);
    else found.push((open = [i]));
  });
  return found;
}

function nearest(list, value) {
  let low = 0, high = list.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle] <= value) low = middle;
    else high = middle;
  }
  return Math.abs(list[low] - value) <= Math.abs(list[high] - value) ? low : high;
}
