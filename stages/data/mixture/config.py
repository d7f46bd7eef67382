"""Configuration of a mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError
from longcat.stages.data.mixture.lengths import LengthBuckets, Lengths, LongDocuments

T = TypeVar("T")
_BY_LENGTH = ("length_buckets", "long_documents")
Weights = tuple[Annotated[float, Field(ge=0)], ...]
DocumentTokens = tuple[Annotated[int, Field(ge=0)], ...]


class MixStage(StageConfig):
    """One stage of a curriculum."""

    name: str = Field(min_length=1, max_length=100, description="Name of the stage in reports.")
    share: float = Field(gt=0, description="Relative share of the training tokens among all stages.")
    weights: Weights | None = Field(default=None, description="Relative share of each source; null: as in the mixture.")
    min_document_tokens: DocumentTokens | None = Field(
        default=None, description="Minimum tokens per document; null: as in the mixture."
    )
    length_buckets: LengthBuckets | None = Field(
        default=None, description="Sampling by document length; null: as in the mixture."
    )
    long_documents: LongDocuments | None = Field(
        default=None, description="Share of long documents; null: as in the mixture."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        check_one_kind(self.length_buckets, self.long_documents)
        return self


class MixConfig(StageConfig):
    """Proportions of the sources, in input order."""

    weights: Weights | None = Field(
        default=None,
        description="Relative share of the training tokens per source; null: determined by samplemix.",
    )
    labels: tuple[str, ...] = Field(default=(), description="Names of the sources in the report; empty: their numbers.")
    token_budget: int | None = Field(
        default=None, ge=1, description="Training tokens of the mixture; null: maximum allowed by max_epochs."
    )
    max_epochs: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(
        default=(4.0,), min_length=1, description="Maximum epochs of a source; one value for all, or one per source."
    )
    min_document_tokens: DocumentTokens = Field(
        default=(0,), min_length=1, description="Minimum tokens per document; one value for all, or one per source."
    )
    length_buckets: LengthBuckets | None = Field(
        default=None, description="Sampling of every source by buckets of document length."
    )
    long_documents: LongDocuments | None = Field(
        default=None, description="Share of every source that is drawn from its long documents only."
    )
    stages: tuple[MixStage, ...] = Field(
        default=(), max_length=1000, description="Stages of a curriculum, in training order."
    )
    sampling: Literal["uniform", "samplemix"] = Field(
        default="uniform",
        description="uniform: all documents of a source equally often. samplemix: by quality and diversity.",
    )
    alpha: float = Field(default=0.8, ge=0, le=1, description="samplemix: weight of diversity relative to quality.")
    temperature: float = Field(
        default=0.2, ge=0.01, le=100, description="samplemix: lower values prefer better documents more strongly."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the document order of each source.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: duplicate source name")
        if len(set(names)) != len(names):
            raise ValueError("stages: duplicate stage name")
        open_ended = self.weights is None and (not self.stages or any(s.weights is None for s in self.stages))
        if open_ended and self.sampling == "uniform":
            raise ValueError("weights is missing; only sampling=samplemix determines the shares")
        check_one_kind(self.length_buckets, self.long_documents)
        by_length = next((key for part in (self, *self.stages) for key in _BY_LENGTH if getattr(part, key)), None)
        if by_length is not None and self.sampling == "samplemix":
            raise ValueError(f"{by_length} and sampling=samplemix exclude each other; remove one")
        if self.token_budget is None and (self.stages or self.sampling == "samplemix" or by_length):
            raise ValueError(
                f"token_budget is missing; stages, sampling=samplemix and {' and '.join(_BY_LENGTH)} need it"
            )
        return self

    def label(self, source: int) -> str:
        """Name of a source in reports and errors."""
        return self.labels[source] if self.labels else str(source)


def check_one_kind(buckets: LengthBuckets | None, long: LongDocuments | None) -> None:
    """Raise ValueError if both kinds of sampling by length are given."""
    if buckets is not None and long is not None:
        raise ValueError("length_buckets and long_documents exclude each other; remove one")


@dataclass(frozen=True)
class Resolved:
    """One resolved stage of the curriculum: budget share, source shares (None: by samplemix), minimum tokens.

    `lengths`: sampling by document length, if any.
    """

    name: str
    share: float
    shares: tuple[float, ...] | None
    min_tokens: tuple[int, ...]
    lengths: Lengths | None = None


def resolve(config: MixConfig, sources: int) -> tuple[Resolved, ...]:
    """Stages of a mixture of this many sources; a single stage if none are given.

    Raises:
        ConfigError: a setting has another number of values than there are sources, or all weights are zero.
    """
    _check_count("labels", config.labels, sources, none=True)
    _check_count("max_epochs", config.max_epochs, sources, one=True)
    stages = config.stages or (MixStage(name="all", share=1),)
    total = sum(stage.share for stage in stages)
    resolved = []
    for number, stage in enumerate(stages):
        where = f"stages.{number}." if config.stages else ""
        weights = stage.weights if stage.weights is not None else config.weights
        least = stage.min_document_tokens or config.min_document_tokens
        _check_count(f"{where}min_document_tokens", least, sources, one=True)
        shares = None
        if weights is not None:
            _check_count(f"{where}weights", weights, sources)
            if not sum(weights):
                raise ConfigError("all weights are zero", where=f"{where}weights")
            shares = tuple(weight / sum(weights) for weight in weights)
        lengths = stage.length_buckets or stage.long_documents or config.length_buckets or config.long_documents
        resolved.append(Resolved(stage.name, stage.share / total, shares, spread(least, sources), lengths))
    return tuple(resolved)


def spread(values: tuple[T, ...], sources: int) -> tuple[T, ...]:
    """One value per source; a single value applies to all."""
    return values if len(values) == sources else values * sources


def _check_count(name: str, values: tuple[object, ...], sources: int, *, none: bool = False, one: bool = False) -> None:
    if len(values) == sources or (none and not values) or (one and len(values) == 1):
        return
    raise ConfigError(f"{len(values)} values for {sources} sources", where=name)
