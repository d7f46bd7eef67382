"""Printing of evaluations: measured checkpoints first, baselines below, and side-by-side comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.cli.console import out, say
from longcat.cli.tables import PlainTable, table
from longcat.cli.terminal import styled, write_text
from longcat.pipeline.values import written

if TYPE_CHECKING:
    from longcat.stages.evaluate.compare import Comparison


def results_table(metrics: Mapping[str, Any]) -> PlainTable:
    """Print the checkpoints of an evaluation (its metrics), then the baselines."""
    shares = {"needle_top1": "needle accuracy", "recalled": "recall"}
    shares = {key: name for key, name in shares.items() if any(key in found for found in metrics["checkpoints"])}
    rows = table("checkpoint", ">loss", ">bits per byte", ">perplexity", *(f">{name}" for name in shares.values()))
    for found in metrics["checkpoints"]:
        losses = (found["validation_loss"], found["bits_per_byte"], found["perplexity"])
        rows.add_row(
            found["label"], *map(_figure, losses), *(_figure(found[key]) if key in found else "" for key in shares)
        )
    loss = metrics["unigram_loss"]
    baseline = (loss, metrics["unigram_bits_per_byte"], math.exp(loss))
    chances = [_figure(metrics["needle_chance"]) if key == "needle_top1" else "" for key in shares]
    title = "baseline: unigram, chance" if "needle_top1" in shares else "baseline: unigram"
    rows.add_row(title, *map(_figure, baseline), *chances)
    return rows


def headline(metrics: Mapping[str, Any]) -> str:
    """`loss base 3.2101, extended 3.1988`."""
    return "loss " + ", ".join(f"{found['label']} {found['validation_loss']:.4f}" for found in metrics["checkpoints"])


def _figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else written(value)


def print_report(text: str) -> None:
    """Print a Markdown report: rendered on a terminal, raw into a pipe."""
    from rich.markdown import Markdown

    console = out()
    if console.is_terminal:
        console.print(Markdown(text, hyperlinks=False))
    else:
        write_text(text)


def print_heat_maps(evaluation: Mapping[str, Any]) -> None:
    """Print the heat maps of needles and recall on a terminal with colours; elsewhere the tables say the same."""
    from rich.text import Text

    from longcat.stages.evaluate.drawings import SHOWN, heat_maps
    from longcat.stages.formats.heat_map import color, digits_color

    console = out()
    if not console.is_terminal or console.no_color:
        return
    for found in (each for part in SHOWN for each in heat_maps(evaluation, part)):
        console.print()
        console.print(found.title)
        console.print(Text("depth".ljust(7) + "".join(f"{label:>9}" for label in found.columns) + " tokens"))
        for label, row in zip(found.rows, found.values, strict=True):
            line = Text(label.ljust(7))
            for value in row:
                shown = "" if value is None else f"{value:.2f}"
                style = "" if value is None else f"{digits_color(value)} on {color(value)}"
                line.append(f"{shown:>8} ", style)
            console.print(line)


def print_comparison(found: Comparison) -> None:
    """Print metrics by row, every checkpoint with its difference from the first."""
    first, *others = found.columns
    rows = table("metric", f">{first.title}", *(name for column in others for name in (f">{column.title}", ">change")))
    for row in found.rows:
        cells = [_cell(row.values[0])]
        for value, difference in zip(row.values[1:], row.differences[1:], strict=True):
            cells += [_cell(value), _cell(difference, sign="+")]
        rows.add_row(row.metric, *(styled(cell) for cell in cells))
    out().print(rows)
    for note in found.notes:
        say(note)


def _cell(value: float | int | None, sign: str = "") -> str:
    if value is None:
        return "–"
    return f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign},.4f}"
