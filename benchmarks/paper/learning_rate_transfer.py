"""Table 1 of the LongCat-Flash report: a learning rate found on a narrow model transfers to a wide one.

With s the ratio of the widths, the embedding keeps its initial variance and learning rate, and for all other matrices
both are divided by s. The report derives the settings of its model of width 6,144 from one of width 768 by this rule;
it shows no sweep. Here each width is trained over a grid of learning rates, by the rule and with the settings of the
narrow model unchanged. Learning rates are those of the narrow model, so by the rule the optimum should not move.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from tables import markdown, spread
from toy import Experiment, Results, Run, main, of_width

from longcat.stages.formats.svg import Line, Panel, draw

PROXY, SCALES = 32, (1, 2, 4)
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
STEPS = 120
RULES = ("by the rule", "left as they are")


def label(rule: str, scale: int, rate: float) -> str:
    return f"{rule}, width {PROXY * scale}, learning rate {rate:g}" if scale > 1 else f"proxy, learning rate {rate:g}"


def plan(seeds: range) -> list[Run]:
    found: dict[tuple[str, int], Run] = {}
    for seed in seeds:
        for rule in RULES:
            for scale in SCALES:
                for rate in RATES:
                    name = label(rule, scale, rate)
                    found[name, seed] = Run(
                        name,
                        seed,
                        of_width(PROXY * scale),
                        learning_rate=rate,
                        width_scale=float(scale) if rule == RULES[0] else 1.0,
                        steps=STEPS,
                    )
    return list(found.values())


def losses(results: Results, rule: str, scale: int) -> list[list[float]]:
    """Validation losses [seeds][rates]."""
    columns = [[run["validation_loss"] for run in results[label(rule, scale, rate)]] for rate in RATES]
    return [list(row) for row in zip(*columns, strict=True)]


def optimum(row: list[float]) -> float:
    """Learning rate of the lowest loss: the vertex of a parabola in its logarithm through the lowest point and its
    neighbours; at an end of the grid, that end."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in row]
    lowest = finite.index(min(finite))
    if lowest in (0, len(row) - 1) or not math.isfinite(finite[lowest + 1]):
        return RATES[lowest]
    left, middle, right = finite[lowest - 1 : lowest + 2]
    curvature = left - 2 * middle + right
    shift = (left - right) / (2 * curvature) if curvature else 0.0
    ratio = RATES[lowest + 1] / RATES[lowest]
    return float(RATES[lowest] * ratio**shift)


def report(results: Results, plot: Path) -> str:
    highest = max(loss for row in losses(results, RULES[0], 1) for loss in row if math.isfinite(loss))
    lowest = min(min(row) for rule in RULES for scale in SCALES for row in losses(results, rule, scale))
    panels = [
        Panel(
            f"validation loss, {rule}",
            "learning rate of the narrow model",
            [Line(f"width {PROXY * scale}", RATES, losses(results, rule, scale)) for scale in SCALES],
            x_log=True,
            y_range=(lowest, highest + 0.1),
        )
        for rule in RULES
    ]
    plot.write_text(draw(panels), encoding="utf-8")
    rows = []
    for rule in RULES:
        for scale in SCALES:
            table = losses(results, rule, scale)
            best = [optimum(row) for row in table]
            centre = math.exp(statistics.fmean(map(math.log, best)))
            cells = [spread(column, 3) for column in zip(*table, strict=True)]
            found = f"{centre:.1e} ({min(best):.1e} to {max(best):.1e})"
            rows.append([rule if scale > 1 else "the narrow model", str(PROXY * scale), *cells, found])
    del rows[len(SCALES)]  # the narrow model again
    return markdown(["", "width", *(f"{rate:g}" for rate in RATES), "optimum"], rows)


EXPERIMENT = Experiment("learning_rate_transfer", __doc__ or "", 2, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
