"""Figure 6 of the LongCat-Flash report: the hidden z-loss keeps hidden states small under unsuitable hyperparameters.

The report trains a small model with unsuitable hyperparameters. Without the loss the mean L2 norm of the last hidden
states, before the final norm, exceeds 1,000 after 6 thousand steps and 100 thousand later, with a spike of the loss;
with a weight of 1e-7 it stays at 140 to 250, and the loss is the same. Here the unsuitable value is the learning rate.
The hidden states of a toy model are far smaller, so larger weights are tried as well.
"""

from __future__ import annotations

from pathlib import Path

from compare import loss_panel
from tables import markdown, spread
from toy import Experiment, Results, Run, main

from longcat.stages.formats.svg import Line, Panel, draw

LEARNING_RATE = 8e-2  # ten times that of the other experiments
STEPS = 300
WEIGHTS = {"without": 0.0, "weight 1e-7 (report)": 1e-7, "weight 1e-5": 1e-5, "weight 1e-3": 1e-3}


def plan(seeds: range) -> list[Run]:
    return [
        Run(label, seed, learning_rate=LEARNING_RATE, hidden_z_loss=weight, steps=STEPS)
        for seed in seeds
        for label, weight in WEIGHTS.items()
    ]


def report(results: Results, plot: Path) -> str:
    steps = range(1, len(results["without"][0]["loss"]) + 1)

    def panel(title: str, key: str) -> Panel:
        lines = [Line(label, steps, [run[key] for run in runs]) for label, runs in results.items()]
        return Panel(title, "step", lines, y_log=True)

    chart = draw(
        [
            panel("mean L2 norm of the last hidden states", "state_norm"),
            panel("their largest entry", "largest_state"),
            loss_panel(results),
        ],
    )
    plot.write_text(chart, encoding="utf-8")
    rows = [
        [
            label,
            spread([max(run["state_norm"]) for run in runs], 0),
            spread([run["state_norm"][-1] for run in runs], 0),
            spread([max(run["largest_state"]) for run in runs], 0),
            spread([run["largest_state"][-1] for run in runs], 0),
            spread([run["validation_loss"] for run in runs]),
        ]
        for label, runs in results.items()
    ]
    head = ["hidden z-loss", "highest L2 norm", "last L2 norm", "highest entry", "last", "validation loss"]
    return markdown(head, rows)


EXPERIMENT = Experiment("hidden_z_loss", __doc__ or "", 3, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
