"""The stage protocol: a registered function from input artifacts and a configuration to one new artifact."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from longcat.pipeline.artifact import KINDS, Artifact
from longcat.pipeline.config import C, StageConfig
from longcat.pipeline.engine import Engine
from longcat.pipeline.errors import UsageError
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.progress import Progress
from longcat.pipeline.shards import map_shards

T = TypeVar("T")
SHARDS_PREFIX = "shards-"
ROLE = re.compile(r"(?P<kinds>[a-z]+(\|[a-z]+)*)(?P<many>[?+*]?)")


@dataclass
class Result:
    """Result reported by a stage.

    `counts` and `metrics` must not depend on the clock; `performance` holds what does (seconds, tokens/s).
    """

    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    performance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context(Generic[C]):
    """Everything a stage can access; it never accesses the store.

    Files in `output` become the artifact. `work` is scratch space that survives a kill and is available when the same
    artifact is made again. `log_path` is for lines that depend on the clock.
    """

    config: C
    inputs: Mapping[str, tuple[Artifact, ...]]
    output: Path
    work: Path
    log_path: Path
    engine: Engine
    progress: Progress
    logger: logging.Logger
    stop: StopSignal

    @property
    def seed(self) -> int:
        return seed_of(self.config)

    def input(self, role: str) -> Artifact:
        """The single artifact of `role`."""
        (artifact,) = self.inputs[role]
        return artifact

    def optional(self, role: str) -> Artifact | None:
        """Artifact of an optional role, or None."""
        return next(iter(self.inputs.get(role, ())), None)

    def many(self, role: str) -> tuple[Artifact, ...]:
        """All artifacts of `role`, in the order they were given."""
        return self.inputs.get(role, ())

    def map_shards(
        self, function: Callable[[T], dict[str, Any]], tasks: Sequence[T], *, description: str
    ) -> list[dict[str, Any]]:
        """Run `function` over `tasks` on the engine; results in task order.

        Each finished task is recorded in `work` with the size and digest of what it wrote, so a restart skips it while
        these files exist. A task writes its files with `atomic_path` before it returns a dict of JSON values.
        """
        done = self.work / f"{SHARDS_PREFIX}{_slug(description)}"
        with self.progress.task(description, total=len(tasks), unit="shards") as bar:
            return map_shards(self.engine, function, tasks, done, self.work.parent, bar)

    def stop_requested(self) -> bool:
        """Whether SIGINT or SIGTERM arrived; for use inside `deferred_stop`."""
        return self.stop.requested

    def deferred_stop(self) -> AbstractContextManager[None]:
        """Context in which the first signal does not raise: save at a safe point, then call `check_stop`."""
        return self.stop.deferred()

    def check_stop(self) -> None:
        """Raise `InterruptedRunError` if a stop was requested."""
        self.stop.check()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def seed_of(config: StageConfig) -> int:
    """Seed of a configuration; 0 for stages without randomness."""
    return int(getattr(config, "seed", 0))


@dataclass(frozen=True)
class Role:
    """One input of a stage: accepted kinds, and whether it is optional or repeatable."""

    name: str
    kinds: tuple[str, ...]
    required: bool
    several: bool

    @classmethod
    def parse(cls, name: str, text: str) -> Role:
        """`documents`, `crawl?` (none or one), `checkpoint+` (one or more), `report*` (any number), `a|b`."""
        match = ROLE.fullmatch(text)
        kinds = tuple(match["kinds"].split("|")) if match else ()
        if not match or not set(kinds) <= set(KINDS):
            raise ValueError(f"input role {name!r}: {text!r} is not a kind of artifact with an optional ?, + or *")
        return cls(name, kinds, required=match["many"] not in ("?", "*"), several=match["many"] in ("+", "*"))


Sources = Callable[[Any], dict[str, str]]
Follows = Callable[[Any], bool]
# Maps an unfinished run's id, the settings in which it differs (there, here) and the wanted name to a command that goes
# on from it; None: it cannot be gone on from.
GoOn = Callable[[str, Mapping[str, tuple[Any, Any]], str | None], str | None]
# Maps a configuration and the known inputs (`runner.PlannedInput`, by role) to a prediction of the output.
Check = Callable[[Any, Mapping[str, tuple[Any, ...]]], Mapping[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A registered stage. `revision` is incremented manually when the meaning of its output changes."""

    name: str
    revision: int
    roles: tuple[Role, ...]
    output: str
    config: type[StageConfig]
    function: Callable[[Context[Any]], Result]
    sources: Sources | None
    follows: Follows | None = None
    resumes: bool = True
    check: Check | None = None
    body: str | None = None
    go_on: GoOn | None = None

    def load_body(self) -> Callable[[Context[Any]], Result]:
        """Import and return the body that every process of a multi-process stage runs.

        Raises:
            UsageError: the stage runs in one process.
        """
        if self.body is None:
            raise UsageError(f"{self.name} runs in one process")
        module, _, name = self.body.partition(":")
        found: Callable[[Context[Any]], Result] = getattr(importlib.import_module(module), name)
        return found

    @property
    def rerun_hint(self) -> str:
        """Hint after an interruption."""
        if self.resumes:
            return "run the same command again to resume from here"
        return f"run the same command again; {self.name} then starts from its beginning"

    @property
    def summary(self) -> str:
        """First line of the stage's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


class Registry:
    """Stages by name; the module of a stage is imported on first use."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}
        self._modules: dict[str, str] = {}

    def declare(self, modules: Mapping[str, str]) -> None:
        """Declare which module registers which stage, without importing it."""
        self._modules.update(modules)

    def add(self, stage: Stage) -> None:
        self._stages[stage.name] = stage

    def names(self) -> list[str]:
        return sorted({*self._modules, *self._stages})

    def get(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            UsageError: it does not exist; lists the known stages.
        """
        if name not in self._stages and name in self._modules:
            importlib.import_module(self._modules[name])
        if name not in self._stages:
            raise UsageError(f"no stage {name!r}", hint=f"stages: {', '.join(self.names())}")
        return self._stages[name]


registry = Registry()


def stage(
    name: str,
    *,
    revision: int,
    inputs: Mapping[str, str],
    output: str,
    sources: Sources | None = None,
    follows: Follows | None = None,
    resumes: bool = True,
    check: Check | None = None,
    body: str | None = None,
    go_on: GoOn | None = None,
) -> Callable[[Callable[[Context[C]], Result]], Callable[[Context[C]], Result]]:
    """Register a function as a stage; its configuration class is read from the annotation `Context[Config]`.

    `inputs` maps roles to kinds (see `Role.parse`). `sources` returns digests of files the stage reads from outside the
    store, so that a change gives another artifact. `follows` returns, from a configuration, whether this process only
    helps another one, which makes and publishes the artifact. `resumes` says whether an interrupted run leaves progress
    for the next one. `check` rejects invalid combinations of configuration and predicted inputs before any stage runs;
    it is fast, reads no data and does not import torch. It returns a prediction of the output, for checks of later
    stages and for `--dry-run`. `body` (`module:function`) is run by every process of a multi-process stage. `go_on`
    returns the command that goes on from an unfinished run with other settings (see `unfinished.kindred_runs`).
    """

    def register(function: Callable[[Context[C]], Result]) -> Callable[[Context[C]], Result]:
        parameter = next(iter(inspect.signature(function).parameters))
        (config,) = get_args(get_type_hints(function)[parameter])
        if output not in KINDS:
            raise ValueError(f"stage {name!r}: {output!r} is not a kind of artifact")
        roles = tuple(Role.parse(role, text) for role, text in inputs.items())
        known = (name, revision, roles, output, config, function, sources, follows, resumes, check, body, go_on)
        registry.add(Stage(*known))
        return function

    return register
