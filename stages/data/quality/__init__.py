"""The stage `data.train-quality`: a fastText classifier of documents worth training on, measured on held-out ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import InputError
from longcat.pipeline.stage import Context, Result, stage

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput


class QualityTrainingConfig(StageConfig):
    """What the classifier is trained on and how large it is."""

    label_key: str = Field(
        default="quality", min_length=1, description="Key in `metadata` that holds the label of a labelled document."
    )
    positive: str = Field(default="positive", description="Label of good documents.")
    negative: str = Field(default="negative", description="Label of the others.")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="Share of the documents kept for measuring.")
    max_characters: int = Field(default=10_000, ge=100, description="Characters of a document that are read.")
    dimensions: int = Field(default=32, ge=1, le=1000, description="Width of the word vectors.")
    word_ngrams: int = Field(default=2, ge=1, le=5, description="Longest run of words that is a feature.")
    buckets: int = Field(default=1 << 17, ge=1, le=1 << 24, description="Hash buckets for runs of words.")
    min_count: int = Field(default=2, ge=1, description="Rarer words are left out.")
    epochs: int | None = Field(
        default=None, ge=1, le=1000, description="Passes over the documents; none given: 5 to 100, the more the fewer."
    )
    learning_rate: float = Field(default=0.5, gt=0, le=10, description="Step size at the start; it falls to 0.")
    seed: int = Field(default=0, ge=0, lt=1 << 31, description="Seed of the vectors and of the split.")


def _check(config: QualityTrainingConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    apart = bool(inputs.get("positives")), bool(inputs.get("negatives"))
    if apart[0] != apart[1] or not (apart[0] or inputs.get("labelled")):
        raise InputError(
            "a classifier needs good documents and others",
            hint="give --positives and --negatives, or --labelled with a label in each document's metadata",
        )
    return {}


@stage(
    "data.train-quality",
    revision=1,
    inputs={"positives": "documents*", "negatives": "documents*", "labelled": "documents*"},
    output="report",
    check=_check,
)
def train_quality(context: Context[QualityTrainingConfig]) -> Result:
    """Train a quality classifier from positives and negatives, or from labelled documents, for `data filter`.

    Writes `quality.bin` (fastText) and `held-out.json`: precision and recall by threshold, and the ROC curve. Equal
    texts count once, and the split goes by text, so that no held-out document was trained on. One thread and a seed:
    the same documents give the same bytes.

    Raises:
        InputError: a class is missing, or there are too few documents to hold some out.
        IntegrityError: a shard is damaged.
    """
    from longcat.stages.data.quality.training import train

    return train(context)
