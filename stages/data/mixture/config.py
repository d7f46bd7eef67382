"""Configuration of a mixture."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.config import StageConfig


class MixConfig(StageConfig):
    """How much of each source, in the order in which the inputs are given."""

    weights: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        min_length=1, max_length=1000, description="Share of the training tokens, a number a source; any sum will do."
    )
    labels: tuple[str, ...] = Field(default=(), description="Name of each source in the report; none: its number.")
    token_budget: int | None = Field(
        default=None, ge=1, description="Training tokens of the mixture; null: as many as max_epochs lets through."
    )
    max_epochs: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(
        default=(4.0,), min_length=1, description="Most often a source is gone through; one for all, or one a source."
    )
    min_document_tokens: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,), min_length=1, description="Least tokens of a document; one for all, or one a source."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the order of each source's documents.")

    @model_validator(mode="after")
    def _one_a_source(self) -> Self:
        sources = len(self.weights)
        for name, values, short in (
            ("labels", self.labels, 0),
            ("max_epochs", self.max_epochs, 1),
            ("min_document_tokens", self.min_document_tokens, 1),
        ):
            if len(values) not in (short, sources):
                raise ValueError(f"{name}: {len(values)} values for {sources} weights")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: two sources have one name")
        return self

    def label(self, source: int) -> str:
        """Name of a source in reports and errors."""
        return self.labels[source] if self.labels else str(source)

    def epochs(self, source: int) -> float:
        """Most often a source is gone through."""
        return self.max_epochs[source if len(self.max_epochs) > 1 else 0]

    def min_tokens(self, source: int) -> int:
        """Least tokens of a source's documents."""
        return self.min_document_tokens[source if len(self.min_document_tokens) > 1 else 0]
