"""Repeats the first steps of a training and compares every figure of metrics.jsonl bit by bit.

The schedule is that of the whole run: only the number of steps is reduced. The second run writes to a scratch folder
and makes no artifact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import StageConfig, build_config
from longcat.pipeline.environment import code_version, environment
from longcat.pipeline.errors import InputError
from longcat.pipeline.runner import Session
from longcat.pipeline.stage import Context, Stage, registry
from longcat.stages.formats.checkpoint import METRICS_FILE
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.joins.schedule import join_schedule

Records = Sequence[Mapping[str, Any]]
SAME = "same"


@dataclass(frozen=True)
class StepsComparison:
    """Two runs of the same steps: `same`, or the step at which `field` first differs and its two values."""

    what: str
    steps: int
    result: str
    field: str | None = None
    first: Any = ""
    second: Any = ""


@dataclass(frozen=True)
class Verification:
    """Comparisons of a checkpoint, and possible explanations of a difference."""

    checkpoint: str
    comparisons: list[StepsComparison]
    explanations: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return all(item.result == SAME for item in self.comparisons)

    @property
    def summary(self) -> str:
        """First difference in one sentence."""
        found = next((item for item in self.comparisons if item.result != SAME), None)
        if found is None:
            return "no figure differs"
        return f"{found.what}: {found.field} first differs at {found.result}, {found.first} and then {found.second}"

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoint": self.checkpoint,
            "same": self.same,
            "comparisons": [asdict(item) for item in self.comparisons],
            "explanations": self.explanations,
        }


def verify_training(session: Session, checkpoint: Artifact, *, steps: int, twice: bool) -> Verification:
    """Repeat the first `steps` steps (at most all) of the training that made `checkpoint`; `twice`: two times.

    Raises:
        InputError: it was not made by a stage that trains, or its configuration is of another version.
        MissingArtifactError: one of its inputs is no longer in the store.
    """
    stage = _stage_of(checkpoint)
    inputs = {
        role: tuple(session.store.resolve(item.id) for item in items)
        for role, items in checkpoint.manifest.inputs.items()
    }
    config = build_config(stage.config, checkpoint.manifest.config, where=f"configuration of {checkpoint.id}")
    recorded = read_metrics(checkpoint.file(METRICS_FILE))
    steps = min(steps, len(recorded))
    shortened = shorten(config, steps, inputs)
    runs = [_run(session, stage, shortened, inputs) for _ in range(2 if twice else 1)]
    comparisons = [compare("recorded and now", recorded[:steps], runs[0])]
    if twice:
        comparisons.append(compare("now and again", runs[0], runs[1]))
    found = Verification(checkpoint.id, comparisons)
    if not found.same:
        found.explanations.extend(explain(checkpoint, config, comparisons))
    return found


def _stage_of(checkpoint: Artifact) -> Stage:
    name = checkpoint.manifest.stage
    stage = registry.get(name) if name in registry.names() else None
    if stage is None or checkpoint.kind != "checkpoint" or not issubclass(stage.config, TrainingOptions):
        raise InputError(f"{checkpoint.kind}/{checkpoint.id} was made by {name}, not by train or extend")
    if stage.revision != checkpoint.manifest.revision:
        raise InputError(
            f"{checkpoint.id} was made by revision {checkpoint.manifest.revision} of {name}, this is {stage.revision}",
            hint=f"use the code that made it, {checkpoint.manifest.code_version}",
        )
    return stage


def shorten(config: StageConfig, steps: int, inputs: Mapping[str, Sequence[Artifact]]) -> StageConfig:
    """`config` for the first `steps` steps only, in the schedule of all of them."""
    assert isinstance(config, TrainingOptions)  # noqa: S101  `_stage_of` has seen to it
    joined = join_schedule(config, read_state(next(iter(inputs.get("checkpoint", ())), None)), config.all_steps)
    kept = {"total_steps": joined.schedule.total_steps, "on_join": None if joined.how == "new" else joined.how}
    schedule = config.schedule.model_copy(update=kept)
    return config.model_copy(update={"schedule": schedule} | config.first_steps(steps))


def _run(
    session: Session, stage: Stage, config: StageConfig, inputs: Mapping[str, tuple[Artifact, ...]]
) -> list[dict[str, Any]]:
    """Records of metrics.jsonl of one run."""
    with tempfile.TemporaryDirectory(prefix="longcat-verify-") as name:
        folder = Path(name)
        for part in ("output", "work"):
            (folder / part).mkdir()
        context = Context(
            config=config,
            inputs=inputs,
            output=folder / "output",
            work=folder / "work",
            log_path=folder / "log.jsonl",
            engine=session.engine,
            progress=session.progress,
            logger=session.logger,
            stop=session.stop,
        )
        stage.function(context)
        return read_metrics(folder / "output" / METRICS_FILE)


def compare(what: str, first: Records, second: Records) -> StepsComparison:
    """First step and field at which two runs differ; a field missing in one of them counts as different.

    Figures of the end of a run, such as the validation loss, are only in the last line of a shortened run, and not
    compared.
    """
    for index, (before, after) in enumerate(zip(first, second, strict=True)):
        last = index == len(first) - 1
        for key in sorted(before.keys() | after.keys()):
            if last and key not in before:
                continue
            if before.get(key) != after.get(key):
                return StepsComparison(
                    what, len(first), f"step {before['step']}", key, *_first_difference(before.get(key), after.get(key))
                )
    return StepsComparison(what, len(first), SAME)


def _first_difference(before: Any, after: Any) -> tuple[Any, Any]:
    """First differing items of lists of equal length."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return next(_first_difference(a, b) for a, b in zip(before, after, strict=True) if a != b)
    return before, after


def explain(checkpoint: Artifact, config: StageConfig, comparisons: Sequence[StepsComparison]) -> Iterator[str]:
    """Differences from the environment of the checkpoint, and the remaining explanations."""
    manifest, now = checkpoint.manifest, environment()
    differs = False
    for key in sorted(manifest.environment.keys() | now.keys()):
        before, after = manifest.environment.get(key, "not recorded"), now.get(key, "none")
        if before != after and not (key == "cores" and getattr(config, "threads", None)):
            differs = True
            yield f"{key} was {before}, is {after}{_meaning(key)}"
    if manifest.code_version != code_version():
        differs = True
        yield f"the code was {manifest.code_version}, is {code_version()}"
    again = [item for item in comparisons[1:] if item.result != SAME]
    if again:
        yield "two runs here differ as well: an operation is not deterministic, or the hardware is faulty"
    elif not differs:
        yield "nothing recorded differs" + (
            "" if len(comparisons) > 1 else "; --twice checks whether two runs here agree"
        )
    if not again and len(comparisons) > 1:
        yield "two runs here agree, so the cause is listed above or not recorded"


def _meaning(key: str) -> str:
    known = {
        "cores": ": threads is null, so the number of threads changed, and thus the order of sums",
        "processor": ": another CPU uses other kernels",
        "torch": ": another version may sum in another order",
    }
    return known.get(key, "")
