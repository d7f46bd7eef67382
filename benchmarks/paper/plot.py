"""Line charts as SVG files that need nothing else: panels in a row, a mean line and the range over seeds.

Axes may be logarithmic. Colours are those of Okabe and Ito (2008), which remain distinct to colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WIDTH, HEIGHT = 340, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 30, 40
MOST_POINTS = 120


@dataclass(frozen=True)
class Line:
    """`values` [seeds][points] over `x` [points]; NaN leaves a gap."""

    label: str
    x: Sequence[float]
    values: Sequence[Sequence[float]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    lines: Sequence[Line]
    x_log: bool = False
    y_log: bool = False
    y_range: tuple[float, float] | None = None


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Means of the last `window` values at each place."""
    return [
        math.fsum(part) / len(part) for part in (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    ]


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write the panels side by side; labels that several share have one colour and one place in the legend."""
    labels = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
    colours = {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(labels)}
    width, height = WIDTH * len(panels), HEIGHT + 18 * ((len(labels) + 2) // 3) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, panel in enumerate(panels):
        parts += [f'<g transform="translate({index * WIDTH},0)">', *_panel(panel, colours), "</g>"]
    column = width / 3
    for index, label in enumerate(labels):
        x, y = LEFT / 2 + index % 3 * column, HEIGHT + 14 + 18 * (index // 3)
        parts.append(f'<path d="M{x:.0f} {y - 4}h18" stroke="{colours[label]}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 24:.0f}" y="{y}">{escape(label)}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _panel(panel: Panel, colours: dict[str, str]) -> list[str]:
    xs = [x for line in panel.lines for x in line.x]
    ys = [y for line in panel.lines for values in line.values for y in values if math.isfinite(y)]
    low, high = panel.y_range or (min(ys, default=0.0), max(ys, default=1.0))
    place_x = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, panel.x_log)
    place_y = _scale(low, high, HEIGHT - BOTTOM, TOP, panel.y_log)
    parts = [f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="18" text-anchor="middle">{escape(panel.title)}</text>']
    for y in _ticks(low, high, panel.y_log):
        parts.append(f'<path d="M{LEFT} {place_y(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{place_y(y) + 4:.1f}" text-anchor="end">{_number(y)}</text>')
    for x in _ticks(min(xs), max(xs), panel.x_log):
        parts.append(f'<path d="M{place_x(x):.1f} {HEIGHT - BOTTOM}v4" stroke="black"/>')
        parts.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(x)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="black"/>')
    label_y = HEIGHT - BOTTOM + 32
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{label_y}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    for line in panel.lines:
        parts += _line(line, colours[line.label], place_x, lambda y: place_y(min(max(y, low), high)))
    return parts


def _line(line: Line, colour: str, place_x: Callable[[float], float], place_y: Callable[[float], float]) -> list[str]:
    """The mean of the seeds that have a value, and the area from the lowest to the highest."""
    points: list[tuple[float, float, float, float]] = []
    for index in range(0, len(line.x), max(1, len(line.x) // MOST_POINTS)):
        seeds = [values[index] for values in line.values if index < len(values) and math.isfinite(values[index])]
        if seeds:
            mean = math.fsum(seeds) / len(seeds)
            points.append((place_x(line.x[index]), place_y(mean), place_y(min(seeds)), place_y(max(seeds))))
    outline = [f"{x:.1f},{low:.1f}" for x, _, low, _ in points] + [
        f"{x:.1f},{high:.1f}" for x, _, _, high in points[::-1]
    ]
    middle = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
    return [
        f'<polygon points="{" ".join(outline)}" fill="{colour}" fill-opacity="0.18"/>',
        f'<polyline points="{middle}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>',
    ]


def _scale(low: float, high: float, start: float, end: float, log: bool) -> Callable[[float], float]:
    """A map of [low, high] to [start, end]."""
    first, last = (math.log10(low), math.log10(high)) if log else (low, high)
    span = last - first or 1.0
    return lambda value: start + ((math.log10(value) if log else value) - first) / span * (end - start)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers in [low, high]: powers of ten, and where there are few their multiples, or about five steps."""
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1,) if len(decades) > 3 else (1, 2, 5)
        every = max(1, len(decades) // 6)
        marks = [factor * 10.0**decade for decade in decades[::every] for factor in factors]
        return [mark for mark in marks if low <= mark <= high]
    step = 10.0 ** math.floor(math.log10((high - low) / 4 or 1.0))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return (
        f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
        if value and not 1e-3 <= abs(value) < 1e5
        else f"{value:g}"
    )
