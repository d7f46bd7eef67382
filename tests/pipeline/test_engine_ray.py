"""The Ray engine on a local cluster of two workers: results, errors, killed workers, same bytes as the local engine."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.settings import EngineName, Settings
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import Engine, LocalEngine
from longcat.pipeline.engine.ray import RayEngine
from longcat.pipeline.errors import InputError, LongcatError, UsageError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from tests.poison import PoisonedFolder

PROSE = """The river rises in the hills to the north of the town and runs for thirty miles before it meets the sea.
In spring the melting snow swells it so far that the lower meadows have to be left to the water for a month.
Farmers along its banks built low walls of stone, and many of those walls still stand after two centuries.
A ferry carried people and cattle across until the first bridge was opened by the mayor in a heavy storm.
Children used to wait there for the boats that brought coal, salt and letters from the harbour.
Nobody living remembers the ferry, but its landing place can be found below the old mill."""
OTHERS = ["orchard", "chapel", "market", "forest", "garden", "tower", "valley", "castle", "island", "quarry", "tunnel"]


def page(number: int) -> str:
    """English text that the filter keeps, with every fourth word different per page; page 10 equals page 0."""
    chance = random.Random(number % 10)
    lines = []
    for line in PROSE.split("\n"):
        words = line.split(" ")
        for position in range(3, len(words) - 1, 4):
            words[position] = chance.choice(OTHERS)
        lines.append(" ".join(words))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[RayEngine]:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'longcat-cli[ray]')")
    engine = RayEngine(workers=2)
    try:
        yield engine
    finally:
        engine.close()


def square(value: int) -> int:
    return value * value


def fail(value: int) -> int:
    raise InputError(f"bad {value}", where="here", hint="do that")


def plain_failure(value: int) -> int:
    raise KeyError(value)


def die_once(marker: Path) -> str:
    """Killed the first time, as by the out-of-memory killer; succeeds the second time."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def where_am_i(value: int) -> str:
    return str(Path.cwd())


def test_every_task_runs_once(ray_engine: RayEngine) -> None:
    assert dict(ray_engine.run(square, range(20))) == {number: number * number for number in range(20)}
    assert list(ray_engine.run(square, [])) == []
    assert ray_engine.workers == 2


def test_the_error_of_a_task_is_passed_on_completely(ray_engine: RayEngine) -> None:
    with pytest.raises(InputError) as caught:
        list(ray_engine.run(fail, [1, 2]))
    assert type(caught.value) is InputError
    assert (caught.value.where, caught.value.hint) == ("here", "do that")
    with pytest.raises(KeyError):
        list(ray_engine.run(plain_failure, [1]))


def test_the_task_of_a_killed_worker_runs_again(ray_engine: RayEngine, tmp_path: Path) -> None:
    markers = [tmp_path / str(number) for number in range(3)]
    assert dict(ray_engine.run(die_once, markers)) == {0: "0", 1: "1", 2: "2"}


def test_a_task_that_always_kills_its_worker_is_one_clear_error(ray_engine: RayEngine) -> None:
    with pytest.raises(LongcatError, match="Ray abandoned a task"):
        list(ray_engine.run(die, [1]))


def test_relative_paths_mean_the_same_in_the_workers(
    ray_engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(ray_engine.run(where_am_i, [0])) == [(0, str(tmp_path))]


def test_our_signal_handlers_are_kept(ray_engine: RayEngine) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert list(ray_engine.run(square, [3])) == [(0, 9)]
    assert signal.getsignal(signal.SIGTERM) is before


def chain(engine: Engine, store: Store, pages: Path) -> dict[str, Artifact]:
    """Extract, filter, dedup, tokenizer and pack over the files in `pages`."""
    session = Session(store, engine=engine)
    made: dict[str, Artifact] = {}

    def make(name: str, config: dict[str, Any], **inputs: Artifact) -> None:
        made[name] = run_stage(session, f"data.{name}", config, inputs).artifact

    make("extract", {"input": [str(pages)], "shard_bytes": 2000})
    make("filter", {"language": {"enabled": False}}, documents=made["extract"])
    make("dedup", {}, documents=made["filter"])
    make("tokenizer", {"vocab_size": 300}, documents=made["dedup"])
    make("pack", {"validation_fraction": 0.2}, documents=made["dedup"], tokenizer=made["tokenizer"])
    return made


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for number in range(12):
        (folder / f"{number:02d}.txt").write_text(page(number))
    return folder


@pytest.fixture(scope="module")
def local_files(tmp_path_factory: pytest.TempPathFactory, pages: Path) -> dict[str, Any]:
    made = chain(LocalEngine(workers=1), Store(tmp_path_factory.mktemp("local")), pages)
    assert len(list(made["pack"].path.glob("*.bin"))) == 2
    assert len(list(made["extract"].path.glob("*.zst"))) > 2
    assert made["dedup"].manifest.counts["dropped"]
    return {name: (artifact.id, artifact.manifest.files) for name, artifact in made.items()}


@pytest.mark.parametrize("workers", [1, 2])
def test_artifacts_equal_those_of_the_local_engine(
    workers: int, ray_engine: RayEngine, tmp_path: Path, pages: Path, local_files: dict[str, Any]
) -> None:
    engine = _AtMost(ray_engine, workers)
    made = chain(engine, Store(tmp_path / "ray"), pages)
    assert {name: (artifact.id, artifact.manifest.files) for name, artifact in made.items()} == local_files


class _AtMost:
    """The cluster of two workers with a limit of concurrent tasks."""

    def __init__(self, engine: RayEngine, workers: int) -> None:
        self._engine = engine
        self.workers = workers

    def run(self, function: Callable[[Any], Any], tasks: Any) -> Iterator[tuple[int, Any]]:
        for start in range(0, len(tasks), self.workers):
            for number, result in self._engine.run(function, tasks[start : start + self.workers]):
                yield start + number, result


class _KillsWorkers:
    """Kills a worker of the cluster during the first tasks of every stage."""

    def __init__(self, engine: RayEngine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self.workers = 2
        self.stages = 0

    def run(self, function: Callable[[Any], Any], tasks: Any) -> Iterator[tuple[int, Any]]:
        self.stages += 1
        marker = self._folder / f"killed-{self.stages}"
        yield from self._engine.run(_killed_in_the_middle, [(function, task, marker) for task in tasks])
        assert marker.exists()


def _killed_in_the_middle(given: tuple[Callable[[Any], Any], Any, Path]) -> Any:
    function, task, marker = given
    result = function(task)
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def test_killed_workers_lose_nothing(
    ray_engine: RayEngine, tmp_path: Path, pages: Path, local_files: dict[str, Any]
) -> None:
    engine = _KillsWorkers(ray_engine, tmp_path)
    made = chain(engine, Store(tmp_path / "ray"), pages)
    assert engine.stages >= 4
    assert {name: (artifact.id, artifact.manifest.files) for name, artifact in made.items()} == local_files


def test_nothing_in_the_users_folder_is_executed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'longcat-cli[ray]')")
    here = PoisonedFolder(tmp_path / "here")
    for number in range(2):
        (here.path / f"{number}.jsonl").write_text('{"id": "a", "text": "The river rises in the hills."}\n')
    options = ["--engine", "ray", "--workers", "2", "data", "extract", "--input", "0.jsonl", "--input", "1.jsonl"]
    command = [sys.executable, "-P", "-c", "from longcat.cli.entry import main; main()", *options]
    done = subprocess.run(command, cwd=here.path, capture_output=True, text=True, timeout=120, check=False)
    assert here.executed() == []
    assert done.returncode == 0, done.stderr


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "longcat-cli\[ray\]"'):
        Settings(engine=EngineName.RAY).open_engine()


def test_an_address_for_the_local_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="--engine ray"):
        Settings(ray_address="auto").open_engine()
