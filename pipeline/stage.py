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
    """What a stage reports.

    `counts` and `metrics` must not depend on the clock; `performance` holds what does (seconds, tokens/s).
    """

    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    performance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context(Generic[C]):
    """All that a stage sees of the world; it never touches the store.

    Files in `output` become the artifact. `work` is scratch that outlives a kill and is there again when the same
    artifact is made again. `log_path` takes lines that depend on the clock.
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
        """The one artifact of `role`."""
        (artifact,) = self.inputs[role]
        return artifact

    def optional(self, role: str) -> Artifact | None:
        """The artifact of an optional role, or None."""
        return next(iter(self.inputs.get(role, ())), None)

    def many(self, role: str) -> tuple[Artifact, ...]:
        """All artifacts of `role`, in the order they were given."""
        return self.inputs.get(role, ())

    def map_shards(
        self, function: Callable[[T], dict[str, Any]], tasks: Sequence[T], *, description: str
    ) -> list[dict[str, Any]]:
        """Run `function` over `tasks` on the engine; results in task order.

        Each finished task is recorded in `work` with the size and digest of what it wrote, so a restart skips it while
        these files are there. A task writes its own files by `atomic_path` before it returns a dict of JSON values.
        """
        done = self.work / f"{SHARDS_PREFIX}{_slug(description)}"
        with self.progress.task(description, total=len(tasks), unit="shards") as bar:
            return map_shards(self.engine, function, tasks, done, self.work.parent, bar)

    def stop_requested(self) -> bool:
        """Whether SIGINT or SIGTERM arrived; of use inside `deferred_stop`."""
        return self.stop.requested

    def deferred_stop(self) -> AbstractContextManager[None]:
        """Within it the first signal does not raise: save at a safe point, then `check_stop`."""
        return self.stop.deferred()

    def check_stop(self) -> None:
        """Raise `InterruptedRunError` if a stop was asked for."""
        self.stop.check()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def seed_of(config: StageConfig) -> int:
    """The seed of a configuration; 0 for stages that use no randomness."""
    return int(getattr(config, "seed", 0))


@dataclass(frozen=True)
class Role:
    """One input of a stage: the kinds it takes, and whether none or several may be given."""

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
# From a configuration and what is known of the inputs (`runner.PlannedInput`, by role) to what the output will be.
Check = Callable[[Any, Mapping[str, tuple[Any, ...]]], Mapping[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A registered stage. `revision` is raised by hand when the meaning of its output changes."""

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

    @property
    def rerun_hint(self) -> str:
        """What to do after an interruption."""
        if self.resumes:
            return "run the same command again to go on from here"
        return f"run the same command again; {self.name} then starts from its beginning"

    @property
    def summary(self) -> str:
        """First line of the stage's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


class Registry:
    """Stages by name; the module of a stage is imported when the stage is first asked for."""

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}
        self._modules: dict[str, str] = {}

    def declare(self, modules: Mapping[str, str]) -> None:
        """Say which module registers which stage, without importing it."""
        self._modules.update(modules)

    def add(self, stage: Stage) -> None:
        self._stages[stage.name] = stage

    def names(self) -> list[str]:
        return sorted({*self._modules, *self._stages})

    def get(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            UsageError: there is none; lists those there are.
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
) -> Callable[[Callable[[Context[C]], Result]], Callable[[Context[C]], Result]]:
    """Register a function as a stage; its configuration class is read off the annotation `Context[Config]`.

    `inputs` maps roles to kinds (see `Role.parse`). `sources` gives digests of what the stage reads from outside the
    store, so that a change there makes another artifact. `follows` tells from a configuration whether this process
    only helps another, which makes and publishes the artifact. `resumes` tells whether an interrupted run leaves
    progress that the next one takes up. `check` refuses, before any stage runs, what the configuration and the inputs'
    foretold properties rule out; it is quick, reads no data and imports no torch. What it returns foretells the
    output, for the checks of later stages and for `--dry-run`.
    """

    def register(function: Callable[[Context[C]], Result]) -> Callable[[Context[C]], Result]:
        parameter = next(iter(inspect.signature(function).parameters))
        (config,) = get_args(get_type_hints(function)[parameter])
        if output not in KINDS:
            raise ValueError(f"stage {name!r}: {output!r} is not a kind of artifact")
        roles = tuple(Role.parse(role, text) for role, text in inputs.items())
        registry.add(Stage(name, revision, roles, output, config, function, sources, follows, resumes, check))
        return function

    return register
