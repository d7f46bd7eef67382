"""Configuration of `train.publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from longcat.pipeline.config import RUNTIME, StageConfig
from longcat.pipeline.errors import InputError
from longcat.stages.train.checkpoints.save_files import saves_of


class PublishConfig(StageConfig):
    """Configuration of `train.publish`."""

    run: str = Field(pattern=r"[0-9a-f]{16}", description="id of the training run")
    stage: str = Field(description="stage of the run: train or extend")
    step: int = Field(ge=1, description="step of the save, counted from the start of the run")
    root: Path = Field(
        description="folder of the run: its work folder, or its artifact once it is finished", json_schema_extra=RUNTIME
    )
    settings: dict[str, Any] = Field(
        default={}, description="configuration of the run, to go on from here", json_schema_extra=RUNTIME
    )

    def folder(self) -> Path:
        """Folder of the save.

        Raises:
            InputError: there is none of this step.
        """
        found = saves_of(self.root)
        if self.step not in found:
            there = ", ".join(map(str, found)) or "none"
            raise InputError(f"the run {self.run} has no save of step {self.step}", hint=f"saves: {there}")
        return found[self.step]
