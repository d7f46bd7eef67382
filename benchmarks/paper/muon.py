"""Muon against AdamW over a grid of learning rates at two widths, and whether its learning rate transfers.

The wide models are trained by the rule: hidden matrices of AdamW divide their learning rate by the ratio s of the
widths, those of Muon by its root with the scale `rms`, and by nothing with `spectral`; the other matrices divide it by
s. So for each optimizer the best learning rate should be the same at both widths. LongCat-2.0 is reported to be trained
with Muon; neither its settings nor a comparison are published. All runs have the same steps: CPU seconds tell what a
step costs.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from tables import markdown, spread
from toy import Experiment, Results, Run, main, of_width

from longcat.stages.formats.svg import Line, Panel, draw

PROXY, SCALES = 32, (1, 4)
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
STEPS = 120
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {},
    "AdamW, cautious decay": {"cautious_decay": True},
    "Muon, rms": {"kind": "muon"},
    "Muon, spectral": {"kind": "muon", "muon": {"scale": "spectral"}},
    "Muon, rms, cautious decay": {"kind": "muon", "cautious_decay": True},
}


def label(optimizer: str, scale: int, rate: float) -> str:
    return f"{optimizer}, width {PROXY * scale}, learning rate {rate:g}"


def plan(seeds: range) -> list[Run]:
    return [
        Run(
            label(optimizer, scale, rate),
            seed,
            of_width(PROXY * scale),
            learning_rate=rate,
            width_scale=float(scale),
            steps=STEPS,
            optimizer=options,
        )
        for seed in seeds
        for optimizer, options in OPTIMIZERS.items()
        for scale in SCALES
        for rate in RATES
    ]


def losses(results: Results, optimizer: str, scale: int) -> list[list[float]]:
    """Validation losses [seeds][rates]."""
    columns = [[run["validation_loss"] for run in results[label(optimizer, scale, rate)]] for rate in RATES]
    return [list(row) for row in zip(*columns, strict=True)]


def best(rows: list[list[float]]) -> list[float]:
    """Learning rate of the lowest loss, by seed."""
    return [
        RATES[min(range(len(RATES)), key=lambda at: row[at] if math.isfinite(row[at]) else math.inf)] for row in rows
    ]


def report(results: Results, plot: Path) -> str:
    found = {(name, scale): losses(results, name, scale) for name in OPTIMIZERS for scale in SCALES}
    finite = [loss for rows in found.values() for row in rows for loss in row if math.isfinite(loss)]
    panels = [
        Panel(
            f"validation loss, {name}",
            "learning rate of the narrow model",
            [Line(f"width {PROXY * scale}", RATES, found[name, scale]) for scale in SCALES],
            x_log=True,
            y_range=(min(finite), max(finite)),
        )
        for name in OPTIMIZERS
    ]
    plot.write_text(draw(panels), encoding="utf-8")
    table = []
    for (name, scale), rows in found.items():
        runs = [run for rate in RATES for run in results[label(name, scale, rate)]]
        seconds = statistics.median(run["cpu_seconds"] for run in runs)
        rates = sorted({f"{rate:g}" for rate in best(rows)}, key=float)
        cells = [spread(column, 3) for column in zip(*rows, strict=True)]
        table.append([name, str(PROXY * scale), *cells, ", ".join(rates), f"{seconds:.1f}"])
    head = ["", "width", *(f"{rate:g}" for rate in RATES), "best learning rate by seed", "CPU seconds"]
    return markdown(head, table)


EXPERIMENT = Experiment("muon", __doc__ or "", 3, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
