"""Stage `train.coord-check`: checks that activation sizes do not change with model width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.coord_check.config import CoordCheckConfig, width_table

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _check(config: CoordCheckConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    width_table(config)
    return {"steps": config.steps}


@stage("train.coord-check", revision=2, inputs={"tokens": "tokens"}, output="report", check=_check)
def coord_check(context: Context[CoordCheckConfig]) -> Result:
    """Train a preset at several widths for a few steps and compare the size of its activations (coordinate check).

    Every width is trained twice, with the hyperparameters of the preset's width and with transferred ones. If transfer
    works, the root mean square of layers and logits does not depend on the width. The initial deviations and learning
    rates of every kind of parameter are measured too, and compared with the table of transfer.
    """
    from longcat.stages.train.coord_check.run import run_coord_check

    return run_coord_check(context)
