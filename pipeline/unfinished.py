"""Progress of unfinished runs: stage, step and age."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longcat.pipeline.artifact import ID_PATTERN, KINDS
from longcat.pipeline.config import runtime_keys
from longcat.pipeline.files import folder_bytes, walk
from longcat.pipeline.plans import Plan
from longcat.pipeline.store import Staging, Store

# Stages that work in steps save in folders of this name, anywhere below `work`.
STEP_FOLDER = re.compile(r"step-([0-9]+)")
SHARDS_PREFIX = "shards-"


@dataclass(frozen=True)
class Unfinished:
    """Progress in `folder`, last modified `age_seconds` ago.

    `step`: the newest step that was saved; `leftover`: its artifact exists; `active`: a process is working on it.
    `roles` are the ids of the inputs by role, `paths` their folders by id, `config` the configuration, `runtime` the
    keys of it outside the id; empty for runs of earlier versions.
    """

    folder: Path
    id: str
    stage: str | None
    name: str | None
    progress: str
    age_seconds: float
    size: int
    inputs: tuple[str, ...]
    leftover: bool
    active: bool
    step: int | None = None
    roles: Mapping[str, list[str]] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    runtime: tuple[tuple[str | int, ...], ...] = ()

    @property
    def reason(self) -> str:
        if self.leftover:
            return "progress of a run that is finished"
        return f"progress of an unfinished run: {self.label}"

    @property
    def label(self) -> str:
        """`live: train, step 311 of 400`."""
        what = ", ".join(part for part in (self.stage, self.progress) if part) or "unknown stage"
        return f"{self.name}: {what}" if self.name else what


def describe_run(staging: Staging, plan: Plan, started: str, stamps: Mapping[str, str]) -> None:
    """Record what is made in a staging folder; `stamps` are those of the plan's sources."""
    roles = {role: [item.id for item in items] for role, items in plan.inputs.items()}
    staging.describe(
        {
            "stage": plan.stage.name,
            "name": plan.name,
            "started": started,
            "inputs": sorted({identifier for ids in roles.values() for identifier in ids}),
            "roles": roles,
            "paths": _paths(plan),
            "config": plan.config.model_dump(mode="json"),
            "runtime": runtime_keys(plan.config),
            "steps": getattr(plan.config, "last_step", None),
            "stamps": stamps,
        }
    )


def _paths(plan: Plan) -> dict[str, str]:
    """Folders of inputs by id: an input may be in another store."""
    known = [item.artifact for items in plan.inputs.values() for item in items if item.artifact is not None]
    return {artifact.id: str(artifact.path) for artifact in known}


def unfinished_runs(store: Store) -> list[Unfinished]:
    """All progress of a store, oldest first."""
    folders = [
        path
        for path in (store.root / ".staging").glob("*")
        if ID_PATTERN.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]
    found = [_describe(store, Staging(folder)) for folder in folders]
    return sorted(found, key=lambda run: (-run.age_seconds, run.id))


def _describe(store: Store, staging: Staging) -> Unfinished:
    identifier = staging.folder.name
    run = staging.description()
    return Unfinished(
        folder=staging.folder,
        id=identifier,
        stage=run.get("stage"),
        name=run.get("name"),
        progress=_progress(staging.work, run),
        age_seconds=max(0.0, time.time() - _last_touched(staging, store.log_path(identifier))),
        size=folder_bytes(staging.folder),
        inputs=tuple(item for item in run.get("inputs", ()) if isinstance(item, str)),
        leftover=any((store.folder(kind, identifier) / "manifest.json").exists() for kind in KINDS),
        active=store.in_progress(identifier),
        step=saved_step(staging.work),
        roles=run.get("roles", {}),
        paths=run.get("paths", {}),
        config=run.get("config", {}),
        runtime=tuple(tuple(path) for path in run.get("runtime", ())),
    )


def saved_step(work: Path) -> int | None:
    """Newest step saved in a work folder."""
    steps = (int(match[1]) for path in walk(work) if (match := STEP_FOLDER.fullmatch(path.name)))
    return max(steps, default=None)


def _progress(work: Path, run: Mapping[str, Any]) -> str:
    step = saved_step(work)
    if step is not None:
        total = run.get("steps")
        return f"step {step}" + (f" of {total}" if isinstance(total, int) else "")
    shards = sum(path.suffix == ".json" and path.parent.name.startswith(SHARDS_PREFIX) for path in walk(work))
    return f"{shards} shards done" if shards else ""


def _last_touched(staging: Staging, log: Path) -> float:
    times = []
    for path in (staging.folder, staging.output, staging.work, log, *walk(staging.work)):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=time.time())
