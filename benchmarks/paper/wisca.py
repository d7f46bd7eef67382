"""WISCA (arXiv 2508.16676): weights of attention rescaled from time to time, without a change of the model's output.

The paper reports lower training losses (2 to 3 %) with a rescaling every 250 steps, for models with several query heads
per key head, whose matrices have unequal sizes; both pairs together help more than either alone. The model's output
stays the same.

Here the model has latent attention and 400 steps, so weights are rescaled every 25 or 100. Every run also reports the
largest change of a logit by a rescaling in float32, relative to the largest logit.
"""

from __future__ import annotations

from pathlib import Path

from compare import gap_panel, loss_panel
from tables import difference, markdown, spread
from toy import Experiment, Results, Run, main

from longcat.stages.formats.svg import draw

NONE, CHOSEN = "not rescaled", "every 25 steps"
VARIANTS = {
    NONE: {},
    CHOSEN: {"every": 25},
    "every 100 steps": {"every": 100},
    "at the start only": {"at_start": True},
    "queries and keys only": {"every": 25, "pairs": "qk"},
    "values and output only": {"every": 25, "pairs": "vo"},
    "per head": {"every": 25, "groups": "head"},
    "moments kept": {"every": 25, "moments": "keep"},
}


def plan(seeds: range) -> list[Run]:
    return [Run(label, seed, rescaling=options) for seed in seeds for label, options in VARIANTS.items()]


def report(results: Results, plot: Path) -> str:
    shown = {label: results[label] for label in (NONE, CHOSEN, "moments kept")}
    plot.write_text(draw([loss_panel(shown), gap_panel(results, CHOSEN, NONE)]), encoding="utf-8")
    rows = []
    for label, runs in results.items():
        changes = [change for run in runs for change in run["rescalings"].values()]
        rows.append(
            [
                label,
                spread([run["validation_loss"] for run in runs]),
                f"{max(changes):.1e} in {len(changes)}" if changes else "-",
                spread([max(run["gradient_norm"]) for run in runs], 2),
                spread([run["cpu_seconds"] for run in runs], 0),
                spread([run["wall_seconds"] for run in runs], 0),
                spread([run["peak_bytes"] / 1e6 for run in runs], 0),
            ]
        )
    head = ["weights", "validation loss", "largest change of a logit, in rescalings", "largest gradient norm"]
    table = markdown([*head, "CPU seconds", "wall seconds", "peak memory, MB"], rows)
    losses = {label: [run["validation_loss"] for run in runs] for label, runs in results.items()}
    gaps = [
        f"- {label} minus {NONE}: {difference(losses[label], losses[NONE])}\n" for label in VARIANTS if label != NONE
    ]
    return f"{table}\n{''.join(gaps)}"


EXPERIMENT = Experiment("wisca", __doc__ or "", 4, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
