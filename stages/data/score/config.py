"""Configuration of the scores."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import StageConfig


class ScoreConfig(StageConfig):
    """How documents are embedded and grouped; the quality comes from the classifier where one is given."""

    characters: int = Field(
        default=8192, ge=256, le=1 << 20, description="Characters of a document that are looked at, from its beginning."
    )
    dimensions: int = Field(default=256, ge=8, le=4096, description="Dimensions of a document's vector.")
    clusters: int | None = Field(
        default=None,
        ge=1,
        le=8192,
        description="Groups of documents; null: root of half their number, 1024 at most.",
    )
    sample_documents: int = Field(
        default=10_000, ge=16, le=1_000_000, description="Documents that the groups are found on, chosen by their id."
    )
    iterations: int = Field(default=10, ge=1, le=1000, description="Most rounds of k-means.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the sample and of the first centres.")
