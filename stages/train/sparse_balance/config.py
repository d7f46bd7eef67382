"""Options of the load balance between processes; no torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig

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
