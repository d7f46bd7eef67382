"""Specification of a stage's command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.pipeline.plans import Plan
    from longcat.pipeline.runner import Session
    from longcat.pipeline.store import Store


@dataclass(frozen=True)
class Spec:
    """Specification of a stage's command.

    `positional` names a role or configuration field given without a flag (list fields also have a flag); `options`
    renames flags (role or field -> flag); `roles` describes inputs (role -> help). `prepare` maps the given
    configuration and inputs to the configuration to use. `complete` adds inputs that were not given, from the store.
    `preview` returns the records that `--dry-run` shows, by title. `resume` adds the option --resume-from: from its
    value, the given configuration, inputs and name it makes the plans to execute.
    """

    stage: str
    summary: str
    examples: tuple[str, ...]
    positional: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None
    complete: Callable[[Store, Mapping[str, Any]], dict[str, Any]] | None = None
    preview: Callable[[Any], dict[str, list[dict[str, Any]]]] | None = None
    resume: Callable[[Session, str, dict[str, Any], dict[str, Any], str | None], list[Plan]] | None = None
