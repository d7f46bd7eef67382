"""What a parameter of each kind (`longcat.model.parameter_kinds`) is trained with.

Own values of a kind, `kinds` of a training configuration, belong to the width at which they were found. A model s times
as wide multiplies them by the factors of standard parameterisation, Adam, full alignment (LongCat-Flash report, table
1; Everett et al. 2024):

    learning rate    learning_rate * kinds.KIND.learning_rate_factor * factor
    initial std      (kinds.KIND.initial_std, else model.initializer_range) * factor
    weight decay     kinds.KIND.weight_decay, else optimizer.weight_decay on matrices; no factor, since AdamW multiplies
                     it by the learning rate of the parameter

    embedding                      variance and learning rate unchanged
    hidden, router, unembedding    variance / s and learning rate / s
    vector                         unchanged: a gain has no sum, so it behaves like an embedding (neither source
                                   lists norms, so this is by their argument and not by their table)

Hidden matrices that Muon updates have a learning rate / sqrt(s) with its scale `rms`, whose updates have a spectral
norm that grows with sqrt(s), and an unchanged one with `spectral`. This is ours, by the argument of full alignment for
an update whose spectral norm is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from longcat.model.config import ModelConfig
from longcat.model.parameter_kinds import KINDS, Kind
from longcat.pipeline.config import StageConfig, merge
from longcat.pipeline.errors import ConfigError

# Values of kinds as in training/state.json: those that are set.
Values = Mapping[str, Mapping[str, float]]


class TrainedOptions(StageConfig):
    """Values that every kind has."""

    learning_rate_factor: float | None = Field(
        default=None, ge=0, description="learning rate relative to `learning_rate`; 0 freezes; null: 1"
    )
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="weight decay of all its parameters; null: optimizer.weight_decay on matrices, 0 on vectors",
    )


class VectorOptions(TrainedOptions):
    """Values of the kind `vector`: gains of norms, gating residuals."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_deviation(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("initial_std") is not None:
            raise ValueError(
                "norms start at one and gating residuals at zero, so initial_std does not exist; remove it"
            )
        return values


class KindOptions(TrainedOptions):
    """Values of a kind whose parameters are drawn from a normal distribution."""

    initial_std: float | None = Field(
        default=None,
        ge=0,
        description="standard deviation of the initial weights of a new model; null: model.initializer_range",
    )


class KindsOptions(StageConfig):
    """Values by kind of parameter, at the width at which they were found. null in a run from a checkpoint: as there."""

    embedding: KindOptions = Field(default=KindOptions(), description="token tables, vectors of constant experts")
    hidden: KindOptions = Field(default=KindOptions(), description="attention, dense networks, experts, latents")
    router: KindOptions = Field(default=KindOptions(), description="classifiers of the routers")
    unembedding: KindOptions = Field(default=KindOptions(), description="output projection")
    vector: VectorOptions = Field(default=VectorOptions(), description="gains of norms, gating residuals")

    def given(self) -> dict[str, dict[str, float]]:
        """The values that are set."""
        found: dict[str, dict[str, float]] = self.model_dump(exclude_none=True)
        return {kind: values for kind, values in found.items() if values}

    def of(self, kind: str) -> KindOptions | VectorOptions:
        found: KindOptions | VectorOptions = getattr(self, kind)
        return found

    def after(self, before: Values) -> KindsOptions:
        """These values over those of a checkpoint, for a run that starts from it.

        Raises:
            ConfigError: an initial deviation is given, which is not the checkpoint's.
        """
        for kind, values in self.given().items():
            std = values.get("initial_std")
            if std is not None and std != before.get(kind, {}).get("initial_std"):
                raise ConfigError(
                    f"kinds.{kind}.initial_std = {std:g} is for a new model, a checkpoint has its weights",
                    hint="remove it",
                )
        return KindsOptions.model_validate(merge(before, self.given()))

    def check_fits(self, model: ModelConfig) -> None:
        """Raise ConfigError if a kind has values, but the model has no parameter of that kind."""
        if model.tie_word_embeddings and (given := self.given().get("unembedding")):
            raise ConfigError(
                f"kinds.unembedding.{min(given)}: the model has no parameter of this kind, since tie_word_embeddings "
                "makes the output projection its embedding table",
                hint="set kinds.embedding, or keep the proxy's out with keep_own",
            )


# Keys of all values in a training configuration.
KIND_KEYS = tuple(f"kinds.{kind}.{name}" for kind in KINDS for name in type(getattr(KindsOptions(), kind)).model_fields)


@dataclass(frozen=True)
class Factors:
    """Factors on the standard deviation and learning rate of a kind."""

    std: float
    learning_rate: float


# How hidden matrices are updated: by AdamW, or by Muon with one of its scales.
HiddenUpdate = Literal["adam", "rms", "spectral"]
ADAM: HiddenUpdate = "adam"


def factors(scale: float, update: HiddenUpdate = ADAM) -> dict[Kind, Factors]:
    """Factors for a model `scale` times as wide as the one that the values belong to; `update`: of hidden matrices."""
    unchanged, narrowed = Factors(1.0, 1.0), Factors(scale**-0.5, 1 / scale)
    summing = dict.fromkeys(("hidden", "router", "unembedding"), narrowed)
    if update != ADAM:
        summing["hidden"] = Factors(scale**-0.5, scale**-0.5 if update == "rms" else 1.0)
    return {kind: summing.get(kind, unchanged) for kind in KINDS}


def learning_rate_factors(kinds: KindsOptions, scale: float, update: HiddenUpdate = ADAM) -> dict[Kind, float]:
    """Learning rate of every kind relative to `learning_rate`."""
    found = {}
    for kind, width in factors(scale, update).items():
        own = kinds.of(kind).learning_rate_factor
        found[kind] = (1.0 if own is None else own) * width.learning_rate
    return found


def weight_decay(kinds: KindsOptions, kind: Kind, dimensions: int, base: float) -> float:
    """Weight decay of a parameter, where `base` is `optimizer.weight_decay`."""
    own = kinds.of(kind).weight_decay
    return own if own is not None else base if dimensions >= 2 else 0.0


def initial_std(base: float, kinds: KindsOptions, scale: float) -> dict[str, float]:
    """Standard deviations for `model.init.initialize`, where `base` is `initializer_range`; none for vectors."""
    own = {kind: getattr(kinds.of(kind), "initial_std", None) for kind in KINDS if kind != "vector"}
    return {kind: (base if std is None else std) * factors(scale)[kind].std for kind, std in own.items()}


def table(
    kinds: KindsOptions,
    scale: float,
    *,
    base_std: float,
    learning_rate: float,
    base_decay: float,
    update: HiddenUpdate = ADAM,
) -> list[dict[str, Any]]:
    """Rows of kind, initial_std (None: not drawn), peak learning_rate and weight_decay, as a model is trained.

    `weight_decay` is that of the matrices of a kind, and for `vector` of its norms.
    """
    std, rates = initial_std(base_std, kinds, scale), learning_rate_factors(kinds, scale, update)
    return [
        {
            "kind": kind,
            "initial_std": std.get(kind),
            "learning_rate": learning_rate * rates[kind],
            "weight_decay": weight_decay(kinds, kind, 1 if kind == "vector" else 2, base_decay),
        }
        for kind in KINDS
    ]
