"""Line plots as one self-contained SVG, without a plotting library: the same figures give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 40, 50
# Distinguishable with the common kinds of colour blindness (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


@dataclass(frozen=True)
class Curve:
    """Points (x, y) in the order they are joined; an infinite y is drawn at the upper edge, as a cross."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` on the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, log: bool) -> _Axis:
        scaled = [math.log10(value) if log else value for value in values] or [0.0]
        low, high = min(scaled), max(scaled)
        margin = 0.05 * (high - low) or 0.5
        return cls(low - margin, high + margin, start, end, log)

    def place(self, value: float) -> float:
        scaled = math.log10(value) if self.log else value
        return self.start + (scaled - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, about five of them."""
        span = (self.high - self.low) / 5
        if self.log and span < 0.6:
            decades = range(math.floor(self.low), math.ceil(self.high))
            marks = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
            found = [mark for mark in marks if self.low <= math.log10(mark) <= self.high]
            if len(found) > 1:
                return found
        unit = 10.0 ** math.floor(math.log10(span))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= span)
        step = max(1.0, step) if self.log and span >= 0.6 else step
        places = [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [10**place for place in places] if self.log else places


def line_plot(
    curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, log_x: bool = False, log_y: bool = False
) -> str:
    """The SVG of `curves`; a logarithmic axis takes positive values only."""
    finite = [(x, y) for curve in curves for x, y in curve.points if math.isfinite(y)]
    x_axis = _Axis.of([x for curve in curves for x, _ in curve.points], LEFT, WIDTH - RIGHT, log_x)
    y_axis = _Axis.of([y for _, y in finite], HEIGHT - BOTTOM, TOP, log_y)
    body = [*_frame(x_axis, y_axis, title, x_label, y_label)]
    for number, curve in enumerate(curves):
        body.extend(_draw(curve, x_axis, y_axis, COLORS[number % len(COLORS)]))
        body.append(_text(WIDTH - RIGHT + 28, TOP + 12 + 16 * number, curve.label))
        y = TOP + 8 + 16 * number
        body.append(_line(WIDTH - RIGHT + 10, y, WIDTH - RIGHT + 24, y, COLORS[number % len(COLORS)], 2))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *body, "</svg>", ""])


def _frame(x_axis: _Axis, y_axis: _Axis, title: str, x_label: str, y_label: str) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [_text(LEFT, 22, title, size=14), _text((LEFT + right) / 2, HEIGHT - 12, x_label, anchor="middle")]
    parts.append(_text(8, TOP - 8, y_label))
    for value in x_axis.ticks():
        x = x_axis.place(value)
        parts += [_line(x, TOP, x, bottom, "#dddddd"), _text(x, bottom + 16, f"{value:.3g}", anchor="middle")]
    for value in y_axis.ticks():
        y = y_axis.place(value)
        parts += [_line(LEFT, y, right, y, "#dddddd"), _text(LEFT - 6, y + 4, f"{value:.4g}", anchor="end")]
    return [*parts, _line(LEFT, bottom, right, bottom, "#333333"), _line(LEFT, TOP, LEFT, bottom, "#333333")]


def _draw(curve: Curve, x_axis: _Axis, y_axis: _Axis, color: str) -> list[str]:
    parts, run = [], []
    for x, y in curve.points:
        across = x_axis.place(x)
        if math.isfinite(y):
            run.append(f"{across:.2f},{y_axis.place(y):.2f}")
            parts.append(f'<circle cx="{across:.2f}" cy="{y_axis.place(y):.2f}" r="3" fill="{color}"/>')
            continue
        parts += [_line(across - 4, TOP - 4, across + 4, TOP + 4, color, 2)]
        parts += [_line(across - 4, TOP + 4, across + 4, TOP - 4, color, 2)]
        parts, run = [*parts, *_joined(run, color)], []
    return [*parts, *_joined(run, color)]


def _joined(run: Sequence[str], color: str) -> list[str]:
    return [f'<polyline points="{" ".join(run)}" fill="none" stroke="{color}" stroke-width="1.5"/>'] if run else []


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="{color}" stroke-width="{width:g}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
