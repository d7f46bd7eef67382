"""What is known of a stage before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import StageConfig
from longcat.pipeline.stage import Stage


@dataclass(frozen=True)
class PlannedInput:
    """An input known by id, which exists or will be made earlier in the same plan.

    `artifact` is set if it exists; otherwise `forecast` is the prediction of the other plan.
    """

    id: str
    kind: str
    name: str | None = None
    artifact: Artifact | None = field(default=None, compare=False, repr=False)
    forecast: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Plan:
    """One stage with everything that determines its artifact."""

    stage: Stage
    config: StageConfig
    inputs: Mapping[str, tuple[PlannedInput, ...]]
    sources: Mapping[str, str]
    id: str
    name: str | None = None
    forecast: Mapping[str, Any] = field(default_factory=dict)
