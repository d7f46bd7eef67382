"""Stage `evaluate`: what a chain of checkpoints has learnt, measured on the same tokens."""

from __future__ import annotations

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.evaluate.config import EvaluateConfig


@stage("evaluate", revision=2, inputs={"checkpoints": "checkpoint+", "tokens": "tokens"}, output="evaluation")
def evaluate(context: Context[EvaluateConfig]) -> Result:
    """Measure checkpoints: validation loss, bits per byte, needle in a haystack, samples.

    Every checkpoint reads the same validation windows. The artifact holds report.md for people, evaluation.json with
    all figures and samples.jsonl with continuations. An interrupted run goes on where it stopped.
    """
    from longcat.stages.evaluate.run import run_evaluation

    return run_evaluation(context)
