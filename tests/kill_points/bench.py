"""Working folder with inputs and stores in which commands are run, killed or stopped at a chosen call, and rerun."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_points.forks import Ended, Fork
from kill_points.shim import At, Call, Points, Traced
from kill_points.state import contents, differences

RECIPE = """\
name: toys
steps:
  first: {stage: test.shards, config: {shards: 3}}
  second: {stage: test.shards, config: {text: " more"}, inputs: {documents: first}}
"""
READER = """\
name: reader
steps:
  read: {stage: test.shards, inputs: {documents: %s}}
"""
CARELESS_RECIPE = """\
name: careless
steps:
  careless: {stage: test.careless}
"""


@dataclass(frozen=True)
class Command:
    """Arguments of `longcat`; placeholders such as `{inputs}` and `{other}` are filled in by `Bench.fill`."""

    text: str
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Killed:
    """A command killed right after a matching call, the first or number `nth`, counted from 0."""

    command: Command
    pattern: str
    nth: int = 0


TOYS = Command("run {recipe}")
EXTRACT = Command("data extract --input {inputs} --name pages")
UNNAMED = Command("data extract --input {inputs} --min-text-chars 2")

READ_UNNAMED = Command("run {reader}")
CARELESS = Command("run {careless}")
VERIFY = Command("artifacts verify")

Change = Callable[["Bench"], None]
Step = Command | Killed | Change


@dataclass
class Report:
    """Number of tested points, number of points not reached, and failures by point."""

    scenario: str
    points: int = 0
    missed: int = 0
    seconds: float = 0.0
    problems: list[dict[str, Any]] = field(default_factory=list)


class Bench:
    """`stores/store` and `stores/other` are watched; `inputs` is next to them."""

    def __init__(self, folder: Path, *, backwards: bool = False) -> None:
        self.folder, self.backwards = folder, backwards
        self.stores, self.inputs, self.recipe = folder / "stores", folder / "inputs", folder / "toys.yaml"
        self.reader, self.careless = folder / "reader.yaml", folder / "careless.yaml"
        self.store, self.other = self.stores / "store", self.stores / "other"
        self.stores.mkdir(parents=True)
        self.inputs.mkdir()
        self.recipe.write_text(RECIPE)
        self.careless.write_text(CARELESS_RECIPE)
        for number in range(3):
            lines = [json.dumps({"text": f"sentence {line} of file {number} flows on"}) for line in range(3)]
            (self.inputs / f"part{number}.jsonl").write_text("\n".join(lines) + "\n")
        self.points = Points(0)
        self.ids: dict[str, str] = {}
        self.fresh = self._fresh()

    def differences_from_fresh(self, found: dict[str, Any]) -> list[str]:
        """Differences of artifacts from those of an undisturbed run in an empty store."""
        problems = []
        for store in (self.store, self.other):
            place = f"{store.name}/"
            there = {name.removeprefix(place): data for name, data in found.items() if name.startswith(place)}
            made = tuple(name.removesuffix("manifest.json") for name in there if name.endswith("/manifest.json"))
            expected = {name: data for name, data in self.fresh.items() if name.startswith(made)}
            problems += differences(expected, {name: data for name, data in there.items() if name.startswith(made)})
        return problems

    # Copies of the stores

    def save(self, name: str) -> None:
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.stores, target, symlinks=True)

    def restore(self, name: str) -> None:
        shutil.rmtree(self.stores)
        shutil.copytree(self.folder / name, self.stores, symlinks=True)

    def _fresh(self) -> dict[str, Any]:
        """Contents of an empty store after the stage commands; ids of names are stored for `fill`."""
        failed = self.take((TOYS, EXTRACT, UNNAMED))
        for path in self.store.glob("refs/*.json"):
            self.ids[f"id_{path.stem}"] = json.loads(path.read_bytes())["versions"][-1]["id"]
        (self.ids["id_unnamed"],) = {path.name for path in self.store.glob("documents/*")} - set(self.ids.values())
        self.reader.write_text(READER % self.ids["id_unnamed"])
        failed += self.take((READ_UNNAMED, CARELESS))
        if failed:
            raise AssertionError(f"in an empty store: {failed}")
        found = contents(self.store)
        shutil.rmtree(self.store)
        return found

    # Commands

    def fill(self, command: Command) -> list[str]:
        places = {"inputs": self.inputs, "other": self.other, "recipe": self.recipe}
        places |= {"reader": self.reader, "careless": self.careless}
        arguments = [part.format(**places, **self.ids) for part in shlex.split(command.text)]
        return ["--store", str(self.store), "--quiet", "--workers", "1", *arguments]

    def start(
        self, command: Command, chosen: Call = Call.ALL, at: At = At.NOTHING, number: int = -1, *, slot: int = 0,
        trace: bool = False,
    ) -> Fork:  # fmt: skip
        """Start a watched command with an action at the chosen call."""
        arguments, points = self.fill(command), Points(slot)
        points.clear()

        def work() -> int:
            from longcat.cli.app import run

            return run(arguments)

        return Fork(work, lambda: points.arm(self.stores, chosen, at, number, trace=trace, backwards=self.backwards))

    def run(self, command: Command, *, trace: bool = False) -> Ended:
        """Run a command until it exits."""
        return self.start(command, trace=trace).wait()

    def trace(self, command: Command) -> list[Traced]:
        """Calls of a command; its effects are undone afterwards."""
        self.save("before-trace")
        ended = self.run(command, trace=True)
        if ended.code not in command.codes:
            raise AssertionError(f"{command.text}: exit code {ended.code}\n{ended.text}")
        found = self.points.trace()
        self.restore("before-trace")
        return found

    def together(self, commands: Sequence[Command | Change]) -> list[str]:
        """Run commands sequentially in one fork, which is three times faster; one line per failure."""
        reading = self.folder / "problems.json"

        def work() -> int:
            from longcat.cli.app import run

            problems: list[str] = []
            for command in commands:
                if isinstance(command, Command):
                    start = os.fstat(1).st_size
                    code = run(self.fill(command))
                    sys.stdout.flush()
                    text = os.pread(1, os.fstat(1).st_size - start, start).decode(errors="replace")
                    problems += problems_of(command, Ended(code, text))
                else:
                    command(self)
            reading.write_text(json.dumps(problems))
            return 0

        ended = Fork(work, lambda: self.points.arm(self.stores, Call.ALL, At.NOTHING, backwards=self.backwards)).wait()
        return json.loads(reading.read_text()) if ended.code == 0 else [ended.text]

    # Steps

    def take(self, steps: tuple[Step, ...]) -> list[str]:
        """Execute steps in order; one line per failed command."""
        problems = []
        for step in steps:
            if isinstance(step, Command):
                problems += problems_of(step, self.run(step))
            elif isinstance(step, Killed):
                self._kill(step)
            else:
                step(self)
        return problems

    def _kill(self, step: Killed) -> None:
        calls = self.trace(step.command)
        matching = [number for number, call in enumerate(calls) if re.search(step.pattern, str(call))]
        ended = self.start(step.command, Call.ALL, At.KILL, matching[step.nth] + 1).wait()
        if ended.code is not None:
            raise AssertionError(f"{step.command.text} was not killed: {ended.text}")


def problems_of(command: Command, ended: Ended) -> list[str]:
    """Problems of the exit of a command."""
    if ended.code in command.codes and "Traceback" not in ended.text:
        return []
    return [f"`longcat {command.text}` ended with {ended.code}: {ended.text.strip()[-2000:]}"]


def damage(name: str) -> Change:
    """Change one file of an artifact, like a disk fault."""

    def change(bench: Bench) -> None:
        folder = bench.store / "documents" / bench.ids[f"id_{name}"]
        with max(folder.glob("shard-*")).open("ab") as stream:
            stream.write(b"x")

    return change


def truncate(name: str) -> Change:
    """Truncate a file of the store to half, as a power failure may."""

    def change(bench: Bench) -> None:
        path = bench.store / name.format(**bench.ids)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change
