"""Configuration of the scores."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import StageConfig


class ScoreConfig(StageConfig):
    """Embedding and clustering of documents; quality comes from the classifier if given."""

    characters: int = Field(
        default=8192, ge=256, le=1 << 20, description="Characters used from the beginning of a document."
    )
    dimensions: int = Field(default=256, ge=8, le=4096, description="Dimensions of a document's vector.")
    clusters: int | None = Field(
        default=None,
        ge=1,
        le=8192,
        description="Number of clusters; null: square root of half the number of documents, at most 1024.",
    )
    sample_documents: int = Field(
        default=10_000, ge=16, le=1_000_000, description="Sample size for clustering, selected by document id."
    )
    iterations: int = Field(default=10, ge=1, le=1000, description="Maximum k-means iterations.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of sample and initial centres.")
