"""Files for communication between the processes of a run and the command that started them.

work/launch.json             what to run: written by node 0 at the start, removed at the end
work/launch/events.jsonl     progress and log lines, rank 0 to the command
work/launch/rank-00003.json  error of a failed rank
work/launch/result.json      result of the stage, from rank 0
work/launch/agent-0.log      output of torchrun and the ranks of a node
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from time import time
from typing import Any

from longcat.pipeline import errors
from longcat.pipeline.artifact import load_artifact
from longcat.pipeline.config import StageConfig
from longcat.pipeline.engine import Engine
from longcat.pipeline.errors import IntegrityError, InterruptedRunError, LongcatError, Told
from longcat.pipeline.files import atomic_write, canonical_json, pretty_json, read_json
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.progress import Progress
from longcat.pipeline.stage import Context, Result, registry
from longcat.stages.train.stability.errors import DivergedError


@dataclass(frozen=True)
class Launch:
    """launch.json: everything a process needs to run the stage."""

    stage: str
    config: dict[str, Any]
    inputs: dict[str, list[str]]
    output: str
    work: str
    log_path: str
    attempt: str

    @classmethod
    def of(cls, context: Context[Any], stage: str, attempt: str) -> Launch:
        inputs = {role: [str(artifact.path) for artifact in found] for role, found in context.inputs.items()}
        folders = str(context.output), str(context.work), str(context.log_path)
        return cls(stage, context.config.model_dump(mode="json"), inputs, *folders, attempt)

    def write(self) -> None:
        atomic_write(launch_path(Path(self.work)), pretty_json(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Launch:
        """Raises IntegrityError if the file is not a launch file, FileNotFoundError if it is missing."""
        try:
            return cls(**read_json(path))
        except (ValueError, TypeError) as error:
            raise IntegrityError(f"cannot be read: {error}", where=str(path)) from None

    def context(self, engine: Engine, progress: Progress, logger: Any, stop: StopSignal) -> Context[StageConfig]:
        """Recreate the context of the command in another process."""
        inputs = {role: tuple(load_artifact(Path(path)) for path in paths) for role, paths in self.inputs.items()}
        return Context(
            config=registry.get(self.stage).config.model_validate(self.config),
            inputs=inputs,
            output=Path(self.output),
            work=Path(self.work),
            log_path=Path(self.log_path),
            engine=engine,
            progress=progress,
            logger=logger,
            stop=stop,
        )


def launch_path(work: Path) -> Path:
    return work / "launch.json"


class LaunchFolder:
    """The folder work/launch."""

    def __init__(self, work: Path) -> None:
        self.folder = work / "launch"
        self.events = self.folder / "events.jsonl"

    def clear(self) -> None:
        """Delete files of an earlier attempt."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.events.touch()

    def agent_log(self, node: int) -> Path:
        return self.folder / f"agent-{node}.log"

    def write_result(self, result: Result) -> None:
        atomic_write(self.folder / "result.json", canonical_json(asdict(result)))

    def read_result(self) -> Result | None:
        path = self.folder / "result.json"
        return Result(**read_json(path)) if path.exists() else None

    def write_ending(self, rank: int, attempt: str, failure: Mapping[str, Any]) -> None:
        record = {"rank": rank, "attempt": attempt, "time": time(), **failure}
        atomic_write(self.folder / f"rank-{rank:05d}.json", canonical_json(record))

    def failures(self, attempt: str) -> list[dict[str, Any]]:
        """Failed ranks, in order of failure."""
        found = []
        for path in self.folder.glob("rank-*.json"):
            try:
                record = read_json(path)
            except FileNotFoundError:
                continue
            if record["attempt"] == attempt:
                found.append(record)
        return sorted(found, key=lambda record: record["time"])


def describe(error: BaseException) -> dict[str, Any]:
    """Serialize an error as JSON values, to be re-raised in another process."""
    if isinstance(error, Told):
        return {"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}
    if isinstance(error, OSError) and error.errno is not None:
        filename = str(error.filename) if error.filename else None
        return {"kind": "OSError", "errno": error.errno, "what": error.strerror, "where": filename}
    lines = traceback.format_exception_only(error)
    return {"kind": "", "what": " ".join(lines[-1].split())}


def rebuilt_error(failure: Mapping[str, Any], world_size: int, log: Path) -> BaseException:
    """Error serialized by `describe`, with its rank."""
    rank = f"rank {failure['rank']} of {world_size}"
    kind = {**vars(errors), DivergedError.__name__: DivergedError}.get(failure["kind"])
    if failure["kind"] == "OSError":
        return OSError(failure["errno"], f"{failure['what']} ({rank})", failure["where"])
    if kind is InterruptedRunError:
        return InterruptedRunError(failure["what"], where=failure["where"], hint=failure["hint"])
    if isinstance(kind, type) and issubclass(kind, LongcatError):
        return kind(f"{failure['what']} ({rank})", where=failure["where"], hint=failure["hint"])
    return LongcatError(f"{rank} failed: {failure['what']}", hint=f"see {log}; the same command resumes")
