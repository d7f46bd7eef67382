"""Training runs, finished and unfinished, by name or id, with their saves: what `RUN[@STEP]` means; no torch.

A finished run is its artifact; one published from a save (`stages.train.joins.publish`) counts as a run that ended
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.pipeline.artifact import Artifact, load_artifact
from longcat.pipeline.config import build_config, merge
from longcat.pipeline.errors import InputError, IntegrityError, MissingArtifactError
from longcat.pipeline.plans import Plan
from longcat.pipeline.runner import Session, plan_named
from longcat.pipeline.stage import registry
from longcat.pipeline.store import ID_PREFIX, Store
from longcat.pipeline.unfinished import Unfinished, unfinished_runs
from longcat.stages.formats.training_state import read_state
from longcat.stages.train.checkpoints.save_files import read_save_state, saves_of
from longcat.stages.train.config import TrainingOptions

STAGES = ("train", "extend")
PUBLISHED = "train.publish"


@dataclass(frozen=True)
class KnownRun:
    """A training run. `settings` is its configuration, `inputs` the ids of its inputs by role, `last` its last step.

    `artifact` is None if the run is unfinished. `root` is the folder in which its saves are.
    """

    id: str
    name: str | None
    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, list[str]]
    paths: Mapping[str, str]
    root: Path
    last: int
    artifact: Artifact | None

    @property
    def label(self) -> str:
        return f"{self.name} ({self.id})" if self.name else self.id

    def saves(self) -> list[int]:
        """Steps of the saves, oldest first; the last one of a finished run is its artifact."""
        found = set(saves_of(self.root)) | ({self.last} if self.artifact is not None else set())
        return sorted(found)

    def choose(self, step: int | None) -> int:
        """The given step, or the newest one.

        Raises:
            InputError: there is no save of it.
        """
        found = self.saves()
        if step in found:
            return step
        if step is None and found:
            return found[-1]
        there = f"its saves are those of steps {', '.join(map(str, found))}" if found else "it has none yet"
        what = f"no save of step {step}" if step is not None else "no save"
        hint = "keep_last and keep_every say which saves are kept"
        raise InputError(f"the run {self.label} has {what}: {there}", hint=hint)

    def is_end(self, step: int) -> bool:
        """Whether a step is the end of a finished run."""
        return self.artifact is not None and step == self.last

    def settings_at(self, step: int) -> dict[str, Any]:
        """Configuration used at a save, with values that were transferred from a proxy."""
        return merge(self.settings, self._state(step)["config"])

    def done_at(self, step: int) -> dict[str, int]:
        """Steps and tokens of the run at a save."""
        if self.artifact is None or step != self.last:
            found: dict[str, int] = self._content(step)["run"]
            return found
        manifest = self.artifact.manifest
        before = 0 if manifest.stage == PUBLISHED else manifest.config.get("resumed", {}).get("tokens", 0)
        return {"steps": step, "tokens": before + manifest.counts["tokens"]}

    def artifacts(self, store: Store) -> dict[str, list[Artifact]]:
        """The inputs of the run.

        Raises:
            MissingArtifactError: one is neither in the store nor where it was.
        """
        return {role: [self._input(store, identifier) for identifier in ids] for role, ids in self.inputs.items()}

    def _input(self, store: Store, identifier: str) -> Artifact:
        try:
            return store.resolve(identifier)
        except MissingArtifactError:
            with suppress(KeyError, FileNotFoundError, NotADirectoryError):
                return load_artifact(Path(self.paths[identifier]))
            raise

    def _state(self, step: int) -> dict[str, Any]:
        """training/state.json at a save."""
        if self.artifact is None or step != self.last:
            found: dict[str, Any] = self._content(step)["training"]
            return found
        return read_state(self.artifact).model_dump(mode="json")

    def _content(self, step: int) -> dict[str, Any]:
        """The `state` of a save.

        Raises:
            IntegrityError: it is damaged.
            InputError: an earlier version saved it.
        """
        folder = saves_of(self.root)[step]
        content = read_save_state(folder)
        if content is None:
            raise IntegrityError(f"the save of step {step} is damaged", where=str(folder), hint="name another step")
        if "training" not in content["state"]:
            raise InputError(
                "an earlier version of longcat saved it, without the training history",
                where=str(folder),
                hint="the command that started the run resumes it",
            )
        found: dict[str, Any] = content["state"]
        return found


def parse(text: str) -> tuple[str, int | None]:
    """`base@300` to (`base`, 300); without a step, or with `base@latest`, the whole text is the run."""
    head, separator, tail = text.rpartition("@")
    return (head, int(tail)) if separator and head and tail.isdigit() else (text, None)


def find_run(store: Store, reference: str) -> KnownRun:
    """The run of that name, id or id prefix, finished or not.

    Raises:
        MissingArtifactError: there is none, or more than one.
        InputError: the artifact was not made by a training run.
    """
    known = [run for run in unfinished_runs(store) if not run.leftover]
    prefix = ID_PREFIX.fullmatch(reference) is not None
    found = [run for run in known if run.name == reference or (prefix and run.id.startswith(reference))]
    artifact, problem = None, None
    try:
        artifact = store.resolve(reference)
    except MissingArtifactError as error:
        problem = error
    if len(found) + (artifact is not None) > 1:
        named = [f"{run.id} ({run.label})" for run in found]
        named += [f"{artifact.id} (finished)"] if artifact is not None else []
        raise MissingArtifactError(
            f"{reference!r} means several runs: {', '.join(named)}", hint="name one of them by its id"
        )
    if found:
        return _unfinished(found[0])
    if artifact is not None:
        return _finished(store, artifact, reference)
    assert problem is not None  # noqa: S101
    raise _missing(store, reference, known, problem)


def _missing(
    store: Store, reference: str, known: list[Unfinished], problem: MissingArtifactError
) -> MissingArtifactError:
    if not problem.what.startswith("no artifact"):  # it has the form of an artifact that is not available
        return problem
    aside = [item.entry for item in store.trash.entries() if item.entry.what == "progress"]
    gone = next((entry for entry in aside if entry.id.startswith(reference)), None)
    if gone is not None and ID_PREFIX.fullmatch(reference):
        return MissingArtifactError(
            f"{gone.id} is in quarantine ({gone.reason})", hint=f"`longcat artifacts restore {gone.id}` restores it"
        )
    runs = ", ".join(f"{run.id} ({run.label})" for run in known if run.stage in STAGES) or "none"
    names = ", ".join(store.refs.names()) or "none"
    return MissingArtifactError(
        f"no training run {reference!r} in {store.root}", hint=f"unfinished runs: {runs}; names: {names}"
    )


def _unfinished(run: Unfinished) -> KnownRun:
    if run.stage not in STAGES:
        raise InputError(f"{run.id} is a run of {run.stage or 'an unknown stage'}, not of {' or '.join(STAGES)}")
    if not run.config:
        raise InputError(
            f"{run.id} was started by an earlier version of longcat, which did not record its configuration",
            hint="the command that started it resumes it",
        )
    inputs = {role: list(ids) for role, ids in run.roles.items()}
    last = _last_step(run.stage, run.config, run.id)
    return KnownRun(run.id, run.name, run.stage, run.config, inputs, run.paths, run.folder / "work", last, None)


def _finished(store: Store, artifact: Artifact, reference: str) -> KnownRun:
    manifest = artifact.manifest
    stage, settings = manifest.stage, manifest.config
    if stage == PUBLISHED:
        stage, settings, last = manifest.config["stage"], manifest.config["settings"], manifest.config["step"]
    elif artifact.kind == "checkpoint" and stage in STAGES:
        last = _last_step(stage, settings, artifact.id)
    else:
        trained = f"`--checkpoint {reference}` starts a run from it" if artifact.kind == "checkpoint" else None
        raise InputError(
            f"{artifact.kind}/{artifact.id} was made by {stage}, not by {' or '.join(STAGES)}", hint=trained
        )
    inputs = {role: [item.id for item in items] for role, items in manifest.inputs.items()}
    name = reference if store.refs.lookup(reference) is not None else None
    return KnownRun(artifact.id, name, stage, settings, inputs, {}, artifact.path, last, artifact)


def _last_step(stage: str, settings: Mapping[str, Any], identifier: str) -> int:
    config = build_config(registry.get(stage).config, settings, where=f"configuration of {identifier}")
    assert isinstance(config, TrainingOptions)  # noqa: S101
    return config.last_step


def plan_publication(session: Session, run: KnownRun, step: int, name: str | None = None) -> Plan:
    """Plan the artifact of a save.

    Raises:
        LongcatError: the save or an input is missing or damaged.
    """
    config = {"run": run.id, "stage": run.stage, "step": step, "root": run.root, "settings": dict(run.settings)}
    return plan_named(session, PUBLISHED, config, run.artifacts(session.store), name)
