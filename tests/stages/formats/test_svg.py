"""Line charts."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from longcat.stages.formats.svg import Line, Panel, draw


def chart(*lines: Line, **options: bool) -> str:
    return draw([Panel("t", "x", lines, **options)])  # type: ignore[arg-type]


def numbers(svg: str) -> list[str]:
    return re.findall(r">([\d.e+-]+)</text>", svg)


def test_positions_follow_the_values() -> None:
    svg = chart(Line.through("a<b", [(1, 2), (2, 4), (3, math.inf)]))
    first, second = re.findall(r'circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert float(first[0]) < float(second[0])
    assert float(first[1]) > float(second[1])
    assert svg.count("<circle") == 2, "infinite values are crosses"
    assert "a&lt;b" in svg
    assert {"1", "2", "3", "4"} <= set(numbers(svg))


def test_logarithmic_axes_have_round_ticks() -> None:
    narrow = numbers(chart(Line.through("c", [(1e-3, 1.0), (1e-2, 1.5)]), x_log=True))
    assert narrow[:4] == ["0.001", "0.002", "0.005", "0.01"]
    wide = numbers(chart(Line.through("c", [(1e-6, 1.0), (1.0, 1.0)]), x_log=True))
    assert {"1e-6", "0.01", "1"} <= set(wide)


def test_seeds_are_drawn_as_mean_and_range() -> None:
    svg = chart(Line("a", [1, 2, 3], [[1, 1, math.nan], [3, 3, 5]], dashed=True))
    polygon, polyline = (re.findall(rf'<{name} points="([^"]+)"', svg) for name in ("polygon", "polyline"))
    assert len(polygon[0].split()) == 6
    middle = [float(point.split(",")[1]) for point in polyline[0].split()]
    edges = [float(point.split(",")[1]) for point in polygon[0].split()]
    assert middle[0] == middle[1] > middle[2]
    assert max(edges) > middle[0] > min(edges)
    assert "stroke-dasharray" in svg


def test_a_gap_splits_the_line_and_values_out_of_range_are_at_the_edge() -> None:
    points = [(1.0, 1.0), (2.0, 2.0), (3.0, math.inf), (4.0, 9.0), (5.0, 1.0)]
    svg = draw([Panel("t", "x", [Line.through("a", points)], y_range=(1.0, 2.0))])
    assert svg.count("<polyline") == 2
    heights = [float(y) for y in re.findall(r'circle cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert heights[1] == heights[2] == min(heights)


def test_panels_share_colours_and_one_legend() -> None:
    lines = [Line.through("a", [(0, 1), (1, 2)]), Line.through("b", [(0, 3), (1, 4)])]
    svg = draw([Panel("one", "x", lines), Panel("two", "x", lines[::-1]), Panel("empty", "x", [])])
    assert len(ElementTree.fromstring(svg)) == 1 + 3 + 2 * 2  # noqa: S314
    assert svg.count(">a</text>") == svg.count(">b</text>") == 1
    assert draw([]).endswith("</svg>\n")
