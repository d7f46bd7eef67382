"""Comparison of two configurations: loss curves, their difference, and final losses with their spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tables import difference, markdown, spread
from toy import Results

from longcat.stages.formats.svg import Line, Panel

WINDOW = 20  # steps, for training losses


def curves(results: Results) -> dict[str, list[list[float]]]:
    """Training losses [seeds][steps] by label, each the mean of the last steps."""
    return {label: [smooth(run["loss"], WINDOW) for run in runs] for label, runs in results.items()}


def loss_panel(results: Results) -> Panel:
    """The range of the axis excludes the first eighth of the steps, where all curves fall equally."""
    losses = curves(results)
    steps = len(next(iter(losses.values()))[0])
    tail = [value for runs in losses.values() for values in runs for value in values[steps // 8 :]]
    lines = [Line(label, range(1, steps + 1), values) for label, values in losses.items()]
    return Panel(f"training loss (mean of {WINDOW} steps)", "step", lines, y_range=(min(tail), max(tail)))


def gap_panel(results: Results, first: str, second: str) -> Panel:
    """`first - second`, seed by seed."""
    losses = curves(results)
    pairs = zip(losses[first], losses[second], strict=True)
    gaps = [[one - other for one, other in zip(*pair, strict=True)] for pair in pairs]
    steps = range(len(gaps[0]) // 8, len(gaps[0]))
    line = Line(
        "difference of training losses, seed by seed",
        [step + 1 for step in steps],
        [gap[steps.start :] for gap in gaps],
    )
    return Panel(f"{first} minus {second}", "step", [line])


def loss_table(results: Results, *pairs: tuple[str, str]) -> str:
    """Intermediate training losses, final validation losses, and the differences of pairs."""
    losses = curves(results)
    steps = len(next(iter(losses.values()))[0])
    rows = [
        [
            label,
            f"{runs[0]['parameters']:,}",
            spread([values[steps // 4 - 1] for values in losses[label]]),
            spread([values[-1] for values in losses[label]]),
            spread([run["validation_loss"] for run in runs]),
        ]
        for label, runs in results.items()
    ]
    head = ["model", "parameters", f"training loss at step {steps // 4}", f"at step {steps}", "validation loss"]
    table = markdown(head, rows)
    for pair in pairs:
        both = [[run["validation_loss"] for run in results[label]] for label in pair]
        table += f"\nValidation loss, {pair[0]} minus {pair[1]}: {difference(*both)}\n"
    return table


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Moving average over the last `window` values."""
    return [
        math.fsum(part) / len(part) for part in (values[max(0, i + 1 - window) : i + 1] for i in range(len(values)))
    ]
