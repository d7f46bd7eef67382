"""Configuration of a mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError

T = TypeVar("T")
Weights = tuple[Annotated[float, Field(ge=0)], ...]
DocumentTokens = tuple[Annotated[int, Field(ge=0)], ...]


class MixStage(StageConfig):
    """One stage of a curriculum."""

    name: str = Field(min_length=1, max_length=100, description="Name of the stage in reports.")
    share: float = Field(gt=0, description="Share of the training tokens, of all stages; any sum will do.")
    weights: Weights | None = Field(default=None, description="Share of each source; null: those of the mixture.")
    min_document_tokens: DocumentTokens | None = Field(
        default=None, description="Least tokens of a document; null: those of the mixture."
    )


class MixConfig(StageConfig):
    """How much of each source, in the order in which the inputs are given."""

    weights: Weights | None = Field(
        default=None,
        description="Share of the training tokens, a number a source; any sum will do. null: left to samplemix.",
    )
    labels: tuple[str, ...] = Field(default=(), description="Name of each source in the report; none: its number.")
    token_budget: int | None = Field(
        default=None, ge=1, description="Training tokens of the mixture; null: as many as max_epochs lets through."
    )
    max_epochs: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = Field(
        default=(4.0,), min_length=1, description="Most often a source is gone through; one for all, or one a source."
    )
    min_document_tokens: DocumentTokens = Field(
        default=(0,), min_length=1, description="Least tokens of a document; one for all, or one a source."
    )
    stages: tuple[MixStage, ...] = Field(
        default=(), max_length=1000, description="Stages of a curriculum, in the order in which they are trained on."
    )
    sampling: Literal["uniform", "samplemix"] = Field(
        default="uniform",
        description="uniform: each document of a source as often as another. samplemix: by quality and diversity.",
    )
    alpha: float = Field(default=0.8, ge=0, le=1, description="samplemix: share of diversity in a document's weight.")
    temperature: float = Field(
        default=0.2, ge=0.01, le=100, description="samplemix: the lower, the more a better document is preferred."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the order of each source's documents.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: two sources have one name")
        if len(set(names)) != len(names):
            raise ValueError("stages: two stages have one name")
        open_ended = self.weights is None and (not self.stages or any(s.weights is None for s in self.stages))
        if open_ended and self.sampling == "uniform":
            raise ValueError("weights is missing; only sampling=samplemix finds the shares itself")
        if self.token_budget is None and (self.stages or self.sampling == "samplemix"):
            raise ValueError("token_budget is missing; stages and sampling=samplemix need it")
        return self

    def label(self, source: int) -> str:
        """Name of a source in reports and errors."""
        return self.labels[source] if self.labels else str(source)


@dataclass(frozen=True)
class Resolved:
    """One stage of the curriculum, in full: share of the budget, share of each source (None: found), least tokens."""

    name: str
    share: float
    shares: tuple[float, ...] | None
    min_tokens: tuple[int, ...]


def resolve(config: MixConfig, sources: int) -> tuple[Resolved, ...]:
    """The stages of a mixture of so many sources; one that is all of it where none are given.

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
        resolved.append(Resolved(stage.name, stage.share / total, shares, spread(least, sources)))
    return tuple(resolved)


def spread(values: tuple[T, ...], sources: int) -> tuple[T, ...]:
    """One value a source, where one may stand for all."""
    return values if len(values) == sources else values * sources


def _check_count(name: str, values: tuple[object, ...], sources: int, *, none: bool = False, one: bool = False) -> None:
    if len(values) == sources or (none and not values) or (one and len(values) == 1):
        return
    raise ConfigError(f"{len(values)} values for {sources} sources", where=name)
