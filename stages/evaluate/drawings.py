"""Drawings of an evaluation: heat maps of needles and recall, and curves of the loss by position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longcat.pipeline.printable import one_line
from longcat.stages.formats.heat_map import HeatMap, draw_heat_maps
from longcat.stages.formats.svg import Line, Panel, draw

# What the cells of a part show.
SHOWN = {
    "needle": ("top1", "answer ranked first"),
    "recall": ("recalled", "facts recalled"),
}


def heat_maps(evaluation: Mapping[str, Any], part: str) -> list[HeatMap]:
    """Heat maps of `needle` or `recall`, one per checkpoint that has any: lengths across, depths down."""
    figure, meaning = SHOWN[part]
    found = []
    for result in evaluation["checkpoints"]:
        cells = result.get(part, {}).get("cells", [])
        values = {(cell["length"], cell["depth"]): float(cell[figure]) for cell in cells}
        lengths, depths = (sorted({key[index] for key in values}) for index in (0, 1))
        grid = [[values.get((length, depth)) for length in lengths] for depth in depths]
        if cells:
            title = f"{one_line(result['label'])}: {meaning}"
            found.append(
                HeatMap(title, "tokens", "depth", [f"{each:,}" for each in lengths], [f"{d:g}" for d in depths], grid)
            )
    return found


def drawings(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """SVG files by name: needle.svg, recall.svg and positions.svg, as far as they were measured."""
    files = {f"{part}.svg": draw_heat_maps(maps) for part in SHOWN if (maps := heat_maps(evaluation, part))}
    lines = []
    for result in evaluation["checkpoints"]:
        buckets = result.get("positions", {}).get("buckets", [])
        if buckets:
            points = [(float(bucket["to"]), bucket["loss"]) for bucket in buckets]
            lines.append(Line.through(one_line(result["label"]), points))
    if lines:
        files["positions.svg"] = draw([Panel("loss by position", "tokens before, up to", lines, "nats", x_log=True)])
    return files
