"""Line plots."""

from __future__ import annotations

import math
import re

from longcat.stages.train.plot import Curve, line_plot


def numbers(svg: str) -> list[str]:
    return re.findall(r">([\d.e+-]+)</text>", svg)


def test_places_follow_the_values() -> None:
    svg = line_plot([Curve("a<b", [(1, 2), (2, 4), (3, math.inf)])], title="t", x_label="x", y_label="y")
    first, second = re.findall(r'circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert float(first[0]) < float(second[0])
    assert float(first[1]) > float(second[1])
    assert svg.count("<circle") == 2, "what is infinite is a cross"
    assert "a&lt;b" in svg
    assert {"1", "2", "3", "4"} <= set(numbers(svg))


def test_logarithmic_axes_have_round_ticks() -> None:
    narrow = [Curve("c", [(1e-3, 1.0), (1e-2, 1.5)])]
    assert numbers(line_plot(narrow, title="t", x_label="x", y_label="y", log_x=True))[:4] == [
        "0.001",
        "0.002",
        "0.005",
        "0.01",
    ]
    wide = [Curve("c", [(1e-6, 1.0), (1.0, 1.0)])]
    ticks = numbers(line_plot(wide, title="t", x_label="x", y_label="y", log_x=True))
    assert {"1e-06", "0.01", "1"} <= set(ticks)
    assert line_plot([], title="t", x_label="x", y_label="y").endswith("</svg>\n")
