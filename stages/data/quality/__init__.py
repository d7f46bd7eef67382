"""Stage `data.train-quality`: trains a fastText quality classifier and measures it on held-out documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import InputError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.quality.config import QualityTrainingConfig

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _check(config: QualityTrainingConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    apart = bool(inputs.get("positives")), bool(inputs.get("negatives"))
    if apart[0] != apart[1] or not (apart[0] or inputs.get("labelled")):
        raise InputError(
            "a classifier needs positive and negative documents",
            hint="pass --positives and --negatives, or --labelled with a label in each document's metadata",
        )
    return {}


@stage(
    "data.train-quality",
    revision=2,
    inputs={"positives": "documents*", "negatives": "documents*", "labelled": "documents*"},
    output="report",
    check=_check,
)
def train_quality(context: Context[QualityTrainingConfig]) -> Result:
    """Train a quality classifier from positives and negatives, or from labelled documents, for `data filter`.

    Writes `quality.bin` (fastText) and `held-out.json`: precision and recall by threshold, and the ROC curve. Equal
    texts count once, and the split is by text, so that no held-out text is trained on. Deterministic: one thread and a
    seed.

    Raises:
        InputError: a class is missing, or there are too few documents for a held-out set.
        IntegrityError: a shard is damaged.
    """
    from longcat.stages.data.quality.training import train

    return train(context)
