"""Options of the load balance between processes, and what they cannot be combined with; no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import ConfigError
from longcat.stages.train.parallel.config import degrees

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig
    from longcat.stages.train.config import TrainingOptions

Anchor = Literal["mean", "min", "max"]
Seconds = Annotated[float, Field(ge=0)]


class SparseBalanceOptions(StageConfig):
    """Balance of attention's time between processes; see `stages.train.sparse_balance`."""

    assign: Literal["none", "length", "sparsity"] = Field(
        default="none",
        description="what the windows of a step are assigned to processes by. none: in the order of the data; length: "
        "pairs of tokens in their documents; sparsity: predicted seconds with their budgets",
    )
    budgets: Literal["fixed", "mean", "min", "max"] = Field(
        default="fixed",
        description="keys per token by window and layer. fixed: those of the model; mean, min, max: moved towards this "
        "of the predicted seconds of the windows that the processes compute at the same time",
    )
    coverage_loss: float = Field(
        default=0.1, ge=0, le=1, description="largest share of attention mass that a smaller budget may lose"
    )
    measure_every: int = Field(default=100, ge=1, description="steps between measurements of the covered mass")
    coverage_decay: float = Field(
        default=0.9, ge=0, lt=1, description="decay of the average of the covered mass, per measurement"
    )
    groups: int | None = Field(
        default=None,
        ge=1,
        description="groups of processes among which windows are planned, a multiple of data_replicate * data_shard; "
        "null: that number",
    )
    latency: tuple[tuple[Seconds, Seconds, Seconds, Seconds], ...] | None = Field(
        default=None,
        description="latency model, one row for every different layer: seconds of an attention module, forward and "
        "backward, per document, token, attended key and pair of tokens; null: measured once at the start of the run "
        "and saved",
    )

    @property
    def enabled(self) -> bool:
        """Whether anything is balanced."""
        return self.assign != "none" or self.moves_budgets

    @property
    def moves_budgets(self) -> bool:
        """Whether budgets differ by window and layer."""
        return self.budgets != "fixed"

    @property
    def predicts(self) -> bool:
        """Whether a latency model is needed."""
        return self.assign == "sparsity" or self.moves_budgets

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.enabled and self != self.model_construct():
            raise ValueError("options are given, but nothing is balanced; set assign or budgets, or remove them")
        if self.moves_budgets and (self.groups or 1) < 2:
            raise ValueError(
                f"budgets: {self.budgets} needs groups of 2 or more: budgets depend on what is computed at the same "
                "time, and must not depend on the number of processes"
            )
        if self.latency is not None and not self.predicts:
            raise ValueError("latency is given, but nothing is predicted; set assign: sparsity or budgets")
        return self


def different_layers(model: ModelConfig) -> int:
    """Layers until the attention pattern begins again at the first module of a layer."""
    return min(model.num_layers, math.lcm(len(model.mixers), 2) // 2)


def check_balance(options: TrainingOptions, model: ModelConfig, batch_size: int) -> None:
    """Raise ConfigError if the options for the load balance do not fit the model, the batch or the processes."""
    balance = options.sparse_balance
    if not balance.enabled:
        return
    data = degrees(options.parallel, options.world_size).data
    groups = balance.groups or data
    if groups % data:
        raise ConfigError(
            f"sparse_balance.groups = {groups} is not a multiple of data_replicate * data_shard = {data}",
            hint="choose a multiple, or another number of processes",
        )
    if batch_size % groups:
        raise ConfigError(
            f"sparse_balance: batch_size = {batch_size} is not a multiple of groups = {groups}",
            hint="every group computes as many windows; choose a multiple",
        )
    layers = different_layers(model)
    if balance.latency is not None and len(balance.latency) != layers:
        raise ConfigError(
            f"sparse_balance.latency has {len(balance.latency)} rows, the model {layers} different layers",
            hint="give one row for every layer until the attention pattern begins again",
        )
    if balance.moves_budgets:
        _check_budgets(options, model)


def _check_budgets(options: TrainingOptions, model: ModelConfig) -> None:
    named = f"sparse_balance.budgets = {options.sparse_balance.budgets}"
    if options.parallel.context > 1:
        raise ConfigError(
            f"{named} with parallel.context = {options.parallel.context}: coverage is measured on whole rows",
            hint="set parallel.context: 1, or sparse_balance.budgets: fixed",
        )
    if options.compile:
        raise ConfigError(
            f"{named} with compile: true: coverage is measured between compiled blocks",
            hint="set compile: false, or sparse_balance.budgets: fixed",
        )
    for layer in range(model.num_layers):
        budgets = []
        for slot in (2 * layer, 2 * layer + 1):
            spec = model.mixer(slot)
            budgets.append(spec.mixer.budget_in(model, slot))
            if budgets[-1] is None:
                raise ConfigError(
                    f"{named}: attention {spec.kind!r} of layer {layer} has no budgets",
                    hint="use a kind that selects keys in every slot, or set sparse_balance.budgets: fixed",
                )
        if budgets[0] != budgets[1]:
            raise ConfigError(
                f"{named}: the attention modules of layer {layer} have the budgets {budgets[0]} and {budgets[1]}",
                hint="both modules of a layer get one budget; give them the same",
            )
