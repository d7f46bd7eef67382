"""Configuration of `data.key-values`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.stages.formats.key_values import MOST_WORDS, Statement


class KeyValuesConfig(StageConfig):
    """How many documents, of how many facts, and where a fact is repeated."""

    documents: int = Field(default=1000, ge=1, le=100_000_000, description="Number of documents.")
    facts: int = Field(default=16, ge=1, le=MOST_WORDS, description="Maximum facts of a document.")
    least_facts: int | None = Field(
        default=None, ge=1, description="Minimum facts; a document's number is uniform between both. null: the maximum."
    )
    mentions: int = Field(default=2, ge=1, le=10_000, description="How often a document states each of its facts.")
    at_end: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Fraction of the mentions after the first that come at the end of the document; the others are "
        "anywhere in it.",
    )
    length: int | None = Field(
        default=None,
        ge=64,
        le=1 << 24,
        description="Tokens of a document with its end token, filled with text of `tokens`; null: facts only.",
    )
    statement: str = Field(
        default=" {key} {value} {key}\n",
        max_length=200,
        description="Sentence of a fact with {key} and, after a space, {value}; as `recall.statement` of `evaluate`.",
    )
    words: int = Field(default=512, ge=1, le=MOST_WORDS, description="Number of keys, and of values, to draw from.")
    documents_per_shard: int = Field(default=1000, ge=1, description="Documents of one file of the output.")
    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of facts, places and text.")

    @property
    def fewest(self) -> int:
        """Minimum facts of a document."""
        return self.facts if self.least_facts is None else self.least_facts

    @model_validator(mode="after")
    def _facts_can_be_drawn(self) -> Self:
        Statement.of(self.statement)
        if self.facts > self.words:
            raise ValueError(f"facts = {self.facts} need as many words, but words = {self.words}")
        if self.fewest > self.facts:
            raise ValueError(f"least_facts = {self.least_facts} exceeds facts = {self.facts}")
        return self
