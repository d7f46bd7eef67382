"""Figure 7 of the LongCat-Flash report: AdamW's epsilon is harmful once it is close to the size of the gradients.

The report trains four sizes, 390 thousand to 400 million parameters, with epsilon from 1e-16 to 0.1. Losses are
constant up to a threshold near the root mean square of the gradients and rise above it; the larger the model, the
smaller its gradients and the lower the threshold. This is why the report uses 1e-16.
"""

from __future__ import annotations

from pathlib import Path

from tables import markdown, spread
from toy import Experiment, Results, Run, main, of_width

from longcat.stages.formats.svg import Line, Panel, draw

SIZES = (32, 64, 128)
EPSILONS = (1e-16, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
STEPS = 120
LOST = 0.05  # nats above the smallest epsilon


def label(width: int, eps: float) -> str:
    return f"width {width}, epsilon {eps:g}"


def plan(seeds: range) -> list[Run]:
    return [
        Run(label(width, eps), seed, of_width(width), eps=eps, steps=STEPS)
        for seed in seeds
        for width in SIZES
        for eps in EPSILONS
    ]


def losses(results: Results, width: int) -> list[list[float]]:
    """Validation losses [seeds][epsilons]."""
    columns = [[run["validation_loss"] for run in results[label(width, eps)]] for eps in EPSILONS]
    return [list(row) for row in zip(*columns, strict=True)]


def report(results: Results, plot: Path) -> str:
    names = {width: f"{results[label(width, EPSILONS[0])][0]['parameters']:,} parameters" for width in SIZES}
    best = {width: results[label(width, EPSILONS[0])] for width in SIZES}
    steps = range(1, len(best[SIZES[0]][0]["gradient_rms"]) + 1)
    # The smallest epsilon is drawn at 1e-8, since losses between are constant.
    drawn = [max(eps, 1e-8) for eps in EPSILONS]
    sweep = [Line(names[width], drawn, losses(results, width)) for width in SIZES]
    above = [
        Line(names[width], drawn, [[loss - row[0] for loss in row] for row in losses(results, width)])
        for width in SIZES
    ]
    sizes = [Line(names[width], steps, [run["gradient_rms"] for run in best[width]]) for width in SIZES]
    chart = draw(
        [
            Panel("validation loss", "epsilon (leftmost: 1e-16)", sweep, x_log=True),
            Panel("above that of epsilon 1e-16", "epsilon", above, x_log=True),
            Panel("root mean square of the gradients", "step", sizes, y_log=True),
        ],
    )
    plot.write_text(chart, encoding="utf-8")
    head = ["parameters", *(f"{eps:g}" for eps in EPSILONS), "gradient RMS, first to last", f"first above +{LOST}"]
    rows = []
    for width in SIZES:
        table = losses(results, width)
        means = [sum(column) / len(column) for column in zip(*table, strict=True)]
        harmful = next(
            (f"{eps:g}" for eps, mean in zip(EPSILONS, means, strict=True) if mean > means[0] + LOST), "none"
        )
        first, last = (sum(run["gradient_rms"][index] for run in best[width]) / len(best[width]) for index in (0, -1))
        cells = [spread(column, 3) for column in zip(*table, strict=True)]
        rows.append([f"{best[width][0]['parameters']:,}", *cells, f"{first:.1e} to {last:.1e}", harmful])
    return markdown(head, rows)


EXPERIMENT = Experiment("adam_epsilon", __doc__ or "", 2, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
