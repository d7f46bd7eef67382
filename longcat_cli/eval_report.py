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
    needles = any(found.get("needle_top1") is not None for found in metrics["checkpoints"])
    columns = ("checkpoint", ">loss", ">bits per byte", ">perplexity", *((">needle accuracy",) if needles else ()))
    rows = table(*columns)
    for found in metrics["checkpoints"]:
        needle = found.get("needle_top1")
        losses = (found["validation_loss"], found["bits_per_byte"], found["perplexity"])
        rows.add_row(found["label"], *map(_figure, losses), "" if needle is None else _figure(needle))
    loss = metrics["unigram_loss"]
    chance = _figure(metrics["needle_chance"]) if needles else ""
    baseline = (loss, metrics["unigram_bits_per_byte"], math.exp(loss))
    rows.add_row("baseline: unigram, chance" if needles else "baseline: unigram", *map(_figure, baseline), chance)
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
