"""Line charts as self-contained SVG, without a plotting library; deterministic bytes.

Panels in a row; a line is the mean of its seeds, with the range over them behind it. Colours are those of Okabe and
Ito (2008), which remain distinct to colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 340, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 16, 34, 40
LEGEND_WIDTH, LEGEND_HEIGHT = 220, 18
MOST_POINTS = 120
MARGIN = 0.04  # of an axis, beyond the first and the last value


@dataclass(frozen=True)
class Line:
    """`values` [seeds][points] over `x` [points]; points without a value (NaN) are omitted.

    Points whose value is infinite for every seed that has one are crosses at the upper edge, and part the line.
    """

    label: str
    x: Sequence[float]
    values: Sequence[Sequence[float]]
    dashed: bool = False
    dots: bool = False

    @classmethod
    def through(cls, label: str, points: Sequence[tuple[float, float]]) -> Line:
        """A line through points (x, y), each marked by a dot."""
        return cls(label, [x for x, _ in points], [[y for _, y in points]], dots=True)


@dataclass(frozen=True)
class Panel:
    """One pair of axes; a logarithmic one takes positive values only. Values beyond `y_range` are drawn at its edge."""

    title: str
    x_label: str
    lines: Sequence[Line]
    y_label: str = ""
    x_log: bool = False
    y_log: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Axis:
    """Mapping of values `low` to `high` onto pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, log: bool, margin: float = MARGIN) -> _Axis:
        scaled = [math.log10(value) if log else value for value in values] or [0.0]
        low, high = min(scaled), max(scaled)
        beyond = margin * (high - low) if high > low else 0.5
        return cls(low - beyond, high + beyond, start, end, log)

    def place(self, value: float) -> float:
        scaled = math.log10(value) if self.log else value
        inside = min(max(scaled, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round tick values."""
        span = (self.high - self.low) / 5
        if self.log and span < 0.6:
            decades = range(math.floor(self.low), math.ceil(self.high))
            marks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
            found = [mark for mark in marks if self.low <= math.log10(mark) <= self.high]
            if len(found) > 1:
                return found[:: math.ceil(len(found) / 7)]
        unit = 10.0 ** math.floor(math.log10(span))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= span)
        step = max(1.0, step) if self.log and span >= 0.6 else step
        places = [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [10**place for place in places] if self.log else places


def draw(panels: Sequence[Panel], *, width: int = WIDTH, height: int = HEIGHT) -> str:
    """The SVG of panels, each `width` times `height` pixels; labels that several share have one colour."""
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    colors = {label: COLORS[index % len(COLORS)] for index, label in enumerate(labels)}
    columns = max(1, width * len(panels) // LEGEND_WIDTH)
    full_width, full_height = width * len(panels), height + LEGEND_HEIGHT * math.ceil(len(labels) / columns) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full_width} {full_height}" width="{full_width}" '
        f'height="{full_height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{full_width}" height="{full_height}" fill="white"/>',
    ]
    for index, panel in enumerate(panels):
        body = _panel(panel, colors, width, height)
        parts += [f'<g transform="translate({index * width},0)">', *body, "</g>"]
    for index, label in enumerate(labels):
        x, y = LEFT / 2 + index % columns * full_width / columns, height + 14 + LEGEND_HEIGHT * (index // columns)
        parts += [_line(x, y - 4, x + 18, y - 4, colors[label], 3), _text(x + 24, y, label)]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, colors: dict[str, str], width: int, height: int) -> list[str]:
    bottom, right = height - BOTTOM, width - RIGHT
    xs = [x for line in panel.lines for x in line.x]
    ys = [y for line in panel.lines for values in line.values for y in values if math.isfinite(y)]
    x_axis = _Axis.of(xs, LEFT, right, panel.x_log)
    y_axis = _Axis.of(panel.y_range or ys, bottom, TOP, panel.y_log, 0.0 if panel.y_range else MARGIN)
    middle = (LEFT + right) / 2
    parts = [_text(middle, 16, panel.title, anchor="middle"), _text(middle, height - 8, panel.x_label, anchor="middle")]
    parts += [_text(4, TOP - 6, panel.y_label)] if panel.y_label else []
    for x in x_axis.ticks():
        at = x_axis.place(x)
        parts += [_line(at, bottom, at, bottom + 4, "#333"), _text(at, bottom + 16, _number(x), anchor="middle")]
    for y in y_axis.ticks():
        at = y_axis.place(y)
        parts += [_line(LEFT, at, right, at, "#ddd"), _text(LEFT - 5, at + 4, _number(y), anchor="end")]
    parts += [_line(LEFT, bottom, right, bottom, "#333"), _line(LEFT, TOP, LEFT, bottom, "#333")]
    for line in panel.lines:
        parts += _draw(line, x_axis.place, y_axis.place, colors[line.label])
    return parts


def _draw(line: Line, across: Callable[[float], float], up: Callable[[float], float], color: str) -> list[str]:
    points: list[tuple[float, list[float]]] = []
    for index in range(0, len(line.x), max(1, len(line.x) // MOST_POINTS)):
        seeds = [values[index] for values in line.values if index < len(values) and not math.isnan(values[index])]
        if seeds:
            points.append((across(line.x[index]), [value for value in seeds if math.isfinite(value)]))
    parts: list[str] = []
    for finite, group in groupby(points, key=lambda point: bool(point[1])):
        run = list(group)
        if not finite:
            parts += [stroke for x, _ in run for stroke in _cross(x, color)]
            continue
        if len(line.values) > 1:
            edge = [(x, up(min(values))) for x, values in run] + [(x, up(max(values))) for x, values in run[::-1]]
            parts.append(f'<polygon points="{_joined(edge)}" fill="{color}" fill-opacity="0.18"/>')
        mean = [(x, up(math.fsum(values) / len(values))) for x, values in run]
        dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
        parts.append(f'<polyline points="{_joined(mean)}" fill="none" stroke="{color}" stroke-width="1.6"{dashes}/>')
        if line.dots:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in mean]
    return parts


def _cross(x: float, color: str) -> list[str]:
    return [_line(x - 4, TOP + side, x + 4, TOP - side, color, 2) for side in (-4, 4)]


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width:g}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.5g}"
