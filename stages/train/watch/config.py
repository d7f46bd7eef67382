"""Monitoring options. They do not affect the result, so they are not part of a run's identity."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig

TrackerName = Literal["wandb", "trackio"]


class WatchOptions(StageConfig):
    """Monitoring besides metrics.jsonl; see `stages.train.watch`."""

    tensorboard: bool = Field(default=True, description="write TensorBoard event files next to the run log")
    trackers: list[TrackerName] = Field(
        default=[], description="also log every step to these services: wandb, trackio (extras of the same names)"
    )
    project: str = Field(default="longcat", min_length=1, description="project of the trackers")
    run_name: str | None = Field(
        default=None, min_length=1, description="name of the run in the trackers; null: the start of the artifact's id"
    )
    profile_steps: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="[first, count]: steps, numbered as in metrics.jsonl, recorded by torch.profiler"
    )
    memory_snapshot: bool = Field(
        default=False, description="also record every allocation of these steps on the accelerator"
    )

    @model_validator(mode="after")
    def _a_window_for_the_snapshot(self) -> Self:
        if self.memory_snapshot and self.profile_steps is None:
            raise ValueError("memory_snapshot records the steps of profile_steps, which is not set")
        if len(set(self.trackers)) < len(self.trackers):
            raise ValueError("trackers names a service twice")
        return self
