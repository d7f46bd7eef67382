"""Configuration of the stability suite and the balance loss."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import RUNTIME, StageConfig

DEFAULT_GROUPS = 8


class BalanceLossOptions(StageConfig):
    """Device-level balance loss; see `stages.train.load_balance.device_loss`."""

    enabled: bool = Field(default=True, description="whether the loss is part of the objective")
    groups: int | None = Field(
        default=None,
        ge=1,
        description="groups of consecutive FFN experts (D), one per device with experts; null: gcd(N, 8)",
    )
    coefficient: float | Literal["auto"] = Field(
        default="auto", description="coefficient of the loss (alpha); auto: adapted so that R_g approaches target_ratio"
    )
    target_ratio: float = Field(
        default=0.05, gt=0, description="auto: mean over the layers of R_g, the loss's gradient relative to all others"
    )
    limit_ratio: float = Field(default=0.1, gt=0, description="auto: maximum R_g of any layer (report: 0.1)")
    every: int = Field(
        default=50,
        ge=0,
        description="auto: steps between moves of the coefficient, besides steps 1, 2, 4, 8, ... of a run; 0: set once",
    )

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.coefficient != "auto" and self.coefficient < 0:
            raise ValueError(f"coefficient = {self.coefficient:g} must be auto or a number of at least 0")
        if self.target_ratio > self.limit_ratio:
            raise ValueError(f"target_ratio = {self.target_ratio:g} exceeds limit_ratio = {self.limit_ratio:g}")
        return self


def expert_groups(options: BalanceLossOptions, experts: int) -> int:
    """Number of groups for `experts` FFN experts.

    Raises:
        ValueError: they cannot be split into that many groups of one size.
    """
    groups = math.gcd(experts, DEFAULT_GROUPS) if options.groups is None else options.groups
    if experts % groups:
        raise ValueError(f"balance_loss.groups = {groups} must divide the {experts} FFN experts")
    return groups


class SpikeOptions(StageConfig):
    """Handling of loss spikes; see `stages.train.stability.spikes`."""

    action: Literal["none", "skip", "rewind"] = Field(
        default="rewind",
        description="none; skip: skip the optimizer step; rewind: also go back to an older save when the run "
        "diverges, and continue with later data",
    )
    window: int = Field(default=128, ge=2, description="number of previous steps for comparison")
    least_history: int = Field(default=64, ge=2, description="steps before which only finiteness is checked")
    deviations: float = Field(
        default=6.0,
        gt=0,
        description="standard deviations above the mean at which a loss is a spike, or the logarithm of a gradient "
        "norm together with a loss half as many above its mean",
    )
    norm_multiple: float = Field(
        default=10.0, gt=1, description="multiple of the median at which such a gradient norm is a spike at any loss"
    )
    least_deviation: float = Field(default=0.02, ge=0, description="minimum standard deviation, relative to the mean")
    diverged_after: int = Field(
        default=10, ge=1, description="consecutive spikes after which the run counts as diverged"
    )
    max_rewinds: int = Field(default=3, ge=0, description="maximum number of rewinds; after that the run fails")

    @model_validator(mode="after")
    def _history_fits(self) -> Self:
        if self.least_history > self.window:
            raise ValueError(f"least_history = {self.least_history} exceeds window = {self.window}")
        return self


class StabilityOptions(StageConfig):
    """Measurements, spike handling and hardware check."""

    every: int = Field(
        default=50,
        ge=0,
        description="steps between measurements, besides steps 1, 2, 4, 8, ... of a run; 0: none",
        json_schema_extra=RUNTIME,
    )
    layer_groups: int = Field(
        default=4,
        ge=1,
        description="groups of consecutive layers with separate gradient and parameter sizes",
        json_schema_extra=RUNTIME,
    )
    corruption_every: int = Field(
        default=0,
        ge=0,
        description="steps between recomputations of one layer, compared bit by bit; 0: never",
        json_schema_extra=RUNTIME,
    )
    spikes: SpikeOptions = SpikeOptions()
