"""Stage `train.sweep`: trains every point of a grid and finds the lowest loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.sweep.grid import SweepConfig, point_configs

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _check(config: SweepConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    """Reject a grid with an invalid model before the first point."""
    from longcat.stages.train.check import foresee_training

    foreseen = [foresee_training(training, inputs) for training in point_configs(config)]
    models = [found["model"] for found in foreseen if "model" in found]
    largest = {"model": max(models, key=lambda model: (model.hidden_size, model.num_layers))} if models else {}
    return {"steps": foreseen[0]["steps"], "tokens": sum(found["tokens"] for found in foreseen)} | largest


@stage("train.sweep", revision=2, inputs={"tokens": "tokens"}, output="report", check=_check)
def sweep(context: Context[SweepConfig]) -> Result:
    """Train a new model at every point of a grid and report the losses.

    Points run in parallel on the workers; divergence of a point is a valid result. `longcat train --transfer-from`
    transfers the best point to a wider model.
    """
    from longcat.stages.train.sweep.run import run_sweep

    return run_sweep(context)
