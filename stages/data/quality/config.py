"""Configuration of `data.train-quality`."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import StageConfig


class QualityTrainingConfig(StageConfig):
    """Training data and size of the classifier."""

    label_key: str = Field(
        default="quality", min_length=1, description="Key in `metadata` with the label of a labelled document."
    )
    positive: str = Field(default="positive", description="Label of positive documents.")
    negative: str = Field(default="negative", description="Label of negative documents.")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="Fraction of documents held out for measurement.")
    max_characters: int = Field(default=10_000, ge=100, description="Characters read per document.")
    dimensions: int = Field(default=32, ge=1, le=1000, description="Width of the word vectors.")
    word_ngrams: int = Field(default=2, ge=1, le=5, description="Maximum length of word n-gram features.")
    buckets: int = Field(default=1 << 17, ge=1, le=1 << 24, description="Hash buckets for word n-grams.")
    min_count: int = Field(default=2, ge=1, description="Minimum word frequency; rarer words are ignored.")
    epochs: int | None = Field(
        default=None, ge=1, le=1000, description="Epochs; null: 5 to 100, more for fewer documents."
    )
    learning_rate: float = Field(default=0.5, gt=0, le=10, description="Initial learning rate; decays to 0.")
    seed: int = Field(default=0, ge=0, lt=1 << 31, description="Seed of vectors and split.")
