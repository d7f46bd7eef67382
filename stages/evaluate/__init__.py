"""Stage `evaluate`: metrics of one or more checkpoints on the same tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.evaluate.config import EvaluateConfig

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _check(config: EvaluateConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, int]:
    from longcat.stages.evaluate.check import check_evaluation

    return check_evaluation(config, inputs["checkpoints"])


@stage(
    "evaluate",
    revision=3,
    inputs={"checkpoints": "checkpoint+", "tokens": "tokens"},
    output="evaluation",
    check=_check,
)
def evaluate(context: Context[EvaluateConfig]) -> Result:
    """Measure checkpoints: validation loss, bits per byte, needle in a haystack, samples.

    Every checkpoint reads the same validation windows. The artifact holds report.md, evaluation.json with all figures
    and samples.jsonl with continuations. An interrupted run resumes where it stopped.
    """
    from longcat.stages.evaluate.run import run_evaluation

    return run_evaluation(context)
