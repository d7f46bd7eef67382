"""Resolution of references: a checkpoint, an unfinished run, or a metrics file."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from longcat.pipeline.artifact import MANIFEST_NAME, Artifact, load_artifact
from longcat.pipeline.errors import InputError, IntegrityError, MissingArtifactError, UsageError
from longcat.pipeline.files import read_json
from longcat.pipeline.store import MIN_PREFIX, Store
from longcat.stages.report.metrics import Metrics, read_metrics_files, read_run_log

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class ReportedRun:
    """One run to plot. `artifact` is None until finished, `model` is its config.json, `facts` is from the log."""

    label: str
    identifier: str | None
    artifact: Artifact | None
    metrics: Metrics
    speed: Metrics
    model: dict[str, Any]
    facts: dict[str, Any]

    @property
    def experts(self) -> tuple[int, int] | None:
        """Number of FFN experts and zero-computation experts per layer, if known."""
        if "n_routed_experts" in self.model:
            return self.model["n_routed_experts"], self.model.get("zero_expert_num") or 0
        if "experts" in self.facts:
            return self.facts["experts"], self.facts["zero_experts"]
        return None

    @property
    def target_active_experts(self) -> float | None:
        """Target of FFN experts per token on average, K_e, if known."""
        config = self.artifact.manifest.config if self.artifact else {}
        target = config.get("balance", {}).get("target_active_experts") or self.facts.get("target_active_experts")
        if target is None and self.experts is not None and "moe_topk" in self.model:
            target = self.model["moe_topk"] * self.experts[0] / max(1, sum(self.experts))
        return target


def find_run(store: Store, reference: str) -> ReportedRun:
    """Resolve a run: a metrics.jsonl, an artifact reference, or the id prefix or name of a run in progress in the
    store.

    Raises:
        MissingArtifactError: nothing matches. InputError: the artifact was not trained. IntegrityError: see
            `read_metrics_files`.
    """
    path = Path(reference).expanduser()
    if path.suffix == ".jsonl" and path.is_file():
        if (path.parent / MANIFEST_NAME).is_file():
            return _of_artifact(store, load_artifact(path.parent.absolute()), path.parent.name)
        return _of_files(path.parent.name or reference, None, [path], None)
    try:
        artifact = store.resolve(reference)
    except MissingArtifactError as error:
        unfinished = _unfinished(store, reference)
        if unfinished is None:
            raise MissingArtifactError(
                error.what,
                hint=f"{error.hint or 'see `longcat artifacts list`'}; a run in progress can be given by its id",
            ) from None
        return unfinished
    return _of_artifact(store, artifact, reference)


def _of_artifact(store: Store, artifact: Artifact, label: str) -> ReportedRun:
    path = artifact.path / METRICS_FILE
    if not path.is_file():
        raise InputError(
            f"the {artifact.kind} {artifact.id} has no {METRICS_FILE}: {artifact.manifest.stage} does not train",
            hint="name a checkpoint made by train or extend",
        )
    log = store.log_path(artifact.id)
    if not log.is_file():
        log = artifact.path.parents[1] / "logs" / log.name
    speed, facts = read_run_log(log)
    names = store.names_of(artifact.id)
    chosen = label if label in names or not names else names[-1]
    model = _model_config(artifact)
    return ReportedRun(chosen, artifact.id, artifact, _read([path], growing=False), speed, model, facts)


def _model_config(artifact: Artifact) -> dict[str, Any]:
    path = artifact.path / "config.json"
    try:
        found = read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(path)) from None
    if not isinstance(found, dict):
        raise IntegrityError("is not a JSON object", where=str(path))
    return found


def _of_files(label: str, identifier: str | None, paths: list[Path], log: Path | None) -> ReportedRun:
    speed, facts = read_run_log(log) if log else (Metrics(), {})
    return ReportedRun(label, identifier, None, _read(paths, growing=True), speed, {}, facts)


def _read(paths: list[Path], *, growing: bool) -> Metrics:
    metrics = read_metrics_files(paths, growing=growing)
    if not metrics.columns:
        raise InputError("no step is recorded yet", where=str(paths[0]), hint="try again after the first step")
    return metrics


def _unfinished(store: Store, reference: str) -> ReportedRun | None:
    found = []
    for folder in sorted((store.root / ".staging").glob("*/work")):
        identifier = folder.parent.name
        name = read_name(store, identifier)
        if reference == name or (len(reference) >= MIN_PREFIX and identifier.startswith(reference)):
            found.append((identifier, name, folder))
    if len(found) > 1:
        raise UsageError(f"{reference!r} matches several runs in progress: {', '.join(item[0] for item in found)}")
    if not found:
        return None
    identifier, name, folder = found[0]
    paths = sorted(folder.glob(f"*/{METRICS_FILE}"), key=_stretch)
    if not paths:
        raise InputError(f"the run {identifier} has not finished a step yet", hint="try again after the first step")
    return _of_files(f"{name or identifier} (in progress)", identifier, paths, store.log_path(identifier))


def _stretch(path: Path) -> tuple[int, str]:
    """Sort key: phase-2 before phase-10."""
    number = re.search(r"\d+$", path.parent.name)
    return int(number[0]) if number else 0, path.parent.name


def read_name(store: Store, identifier: str) -> str | None:
    """Name under which a run in progress will be published, from its log."""
    path, name = store.log_path(identifier), None
    if path.is_file():
        with path.open("rb") as stream:
            for line in stream:
                if b'"start"' in line:
                    with suppress(ValueError, AttributeError):
                        name = orjson.loads(line).get("name")
    return name
