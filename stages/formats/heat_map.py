"""Heat maps of figures from 0 to 1 as self-contained SVG; deterministic bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

# From nothing to everything; a dark cell has white digits.
LIGHT, DARK = (247, 251, 255), (8, 48, 107)
CELL_WIDTH, CELL_HEIGHT = 64, 26
LEFT, TOP, RIGHT, BOTTOM = 64, 52, 16, 24
MISSING = "#eeeeee"


@dataclass(frozen=True)
class HeatMap:
    """`values` [rows][columns] from 0 to 1, None where there is none."""

    title: str
    x_label: str
    y_label: str
    columns: Sequence[str]
    rows: Sequence[str]
    values: Sequence[Sequence[float | None]]


def color(value: float) -> str:
    """Colour of a value from 0 to 1 as `#rrggbb`."""
    share = min(1.0, max(0.0, value))
    return "#" + "".join(
        f"{round(light + share * (dark - light)):02x}" for light, dark in zip(LIGHT, DARK, strict=True)
    )


def digits_color(value: float) -> str:
    """Colour of the digits on it."""
    return "#ffffff" if value > 0.5 else "#000000"


def draw_heat_maps(maps: Sequence[HeatMap]) -> str:
    """The SVG of heat maps, one below the other."""
    heights = [TOP + CELL_HEIGHT * len(each.rows) + BOTTOM for each in maps]
    width = max((LEFT + CELL_WIDTH * len(each.columns) + RIGHT for each in maps), default=LEFT + RIGHT)
    width = max([width, *(LEFT + 7 * len(each.title) for each in maps)])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {sum(heights)}" width="{width}" '
        f'height="{sum(heights)}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{sum(heights)}" fill="white"/>',
    ]
    above = 0
    for each, height in zip(maps, heights, strict=True):
        parts += [f'<g transform="translate(0,{above})">', *_drawn(each), "</g>"]
        above += height
    return "\n".join([*parts, "</svg>", ""])


def _drawn(each: HeatMap) -> list[str]:
    parts = [_text(LEFT, 16, each.title, "start"), _text(4, TOP - 6, each.y_label, "start")]
    for column, label in enumerate(each.columns):
        parts.append(_text(LEFT + CELL_WIDTH * (column + 0.5), TOP - 6, label))
    parts.append(_text(LEFT + CELL_WIDTH * len(each.columns) / 2, TOP - 22, each.x_label))
    for row, label in enumerate(each.rows):
        y = TOP + CELL_HEIGHT * row
        parts.append(_text(LEFT - 6, y + CELL_HEIGHT / 2 + 4, label, "end"))
        for column, value in enumerate(each.values[row]):
            parts += _cell(LEFT + CELL_WIDTH * column, y, value)
    return parts


def _cell(x: float, y: float, value: float | None) -> list[str]:
    fill = MISSING if value is None else color(value)
    box = f'<rect x="{x:g}" y="{y:g}" width="{CELL_WIDTH}" height="{CELL_HEIGHT}" fill="{fill}" stroke="white"/>'
    if value is None:
        return [box]
    return [box, _text(x + CELL_WIDTH / 2, y + CELL_HEIGHT / 2 + 4, f"{value:.2f}", fill=digits_color(value))]


def _text(x: float, y: float, text: str, anchor: str = "middle", fill: str = "#000000") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
