"""How the results of an evaluation are printed: what was measured first, what it stands against below."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from longcat.cli.tables import PlainTable, table
from longcat.cli.values import written


def results_table(metrics: Mapping[str, Any]) -> PlainTable:
    """The checkpoints of an evaluation (its metrics), then the baselines."""
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
