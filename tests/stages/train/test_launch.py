"""Training in several processes: one command, one result, and one error if a process dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, LongcatError
from longcat.pipeline.files import read_json
from longcat.pipeline.runner import Session, execute, plan_named
from longcat.pipeline.store import Store
from longcat.stages.train.launch.config import LaunchOptions
from longcat.stages.train.launch.files import Launch, describe, rebuilt_error
from longcat.stages.train.launch.worker import check_agreement

WORKER = "longcat.stages.train.launch.worker"
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(store: Store, tokens: Artifact, tiny: dict[str, Any], tmp_path: Path) -> Iterator[Start]:
    """Start `longcat train` with two processes on the tiny corpus; remaining processes are killed after the test."""
    started = []

    def command(*options: str, **changes: Any) -> subprocess.Popen[str]:
        path = tmp_path / f"config-{len(started)}.json"
        path.write_text(json.dumps(tiny | changes))
        line = [sys.executable, "-m", "longcat.cli", "--store", str(store.root), "train", "--config", str(path)]
        line += ["--tokens", tokens.id, "--json", *(options or ("--nproc-per-node", "2"))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.wait()
    for process in workers(store):
        process.kill()


def workers(store: Store) -> list[psutil.Process]:
    """Running ranks of a store."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(str(store.root) in word for word in line) and WORKER in line and "torch.distributed.run" not in line:
            found.append(process)
    return found


def until(condition: Callable[[], Any], seconds: float = 100) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)
    return found


def steps_done(store: Store) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (store.root / ".staging").glob("*/work/*/metrics.jsonl"))


def of_rank(store: Store, rank: int) -> psutil.Process:
    (found,) = [process for process in workers(store) if process.environ()["RANK"] == str(rank)]
    return found


def test_a_killed_stopped_and_resumed_run_gives_the_bytes_of_an_undisturbed_run(
    store: Store, contents: Any, start: Start
) -> None:
    config = {"steps": 150, "checkpoint_every": 10}
    expected = finished(store, start(**config))
    hashes = contents(expected)
    store.remove(expected)

    first = start(**config)  # a rank is killed
    until(lambda: list((store.root / ".staging").glob("*/work/training/checkpoints/step-*[0-9]")))
    of_rank(store, 1).kill()
    killed = time.monotonic()
    _, err = first.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert (first.returncode, err.count("longcat: ")) == (1, 1)
    assert "rank 1 of 2 failed: it was killed by SIGKILL (out of memory?)" in err
    assert not workers(store)

    second = start(**config)  # a stop is requested
    reached = steps_done(store)
    until(lambda: len(workers(store)) == 2 and steps_done(store) > reached + 5)
    second.send_signal(signal.SIGTERM)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 130, err
    assert "resuming from step" in err
    assert "interrupted (run the same command again to resume from here)" in err
    folders = sorted((store.root / ".staging").glob("*/work/training/checkpoints/*"))
    assert read_json(folders[-1] / "state.json")["step"] == steps_done(store)
    assert not workers(store)

    third = start(**config)  # the command itself is killed
    reached = steps_done(store)
    until(lambda: len(workers(store)) == 2 and steps_done(store) > reached)
    third.kill()
    until(lambda: not workers(store), seconds=10)

    assert contents(finished(store, start(**config))) == hashes


def finished(store: Store, run: subprocess.Popen[str]) -> Artifact:
    """Checkpoint made by a run."""
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    (folder,) = (store.root / "checkpoint").iterdir()
    return store.resolve(folder.name)


def two_nodes(port: int) -> list[str]:
    return ["--nproc-per-node", "1", "--nnodes", "2", "--rendezvous", f"127.0.0.1:{port}", "--name", "base"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_nodes_on_one_machine(store: Store, start: Start) -> None:
    options = two_nodes(free_port())
    other = start(*options, "--node-rank", "1")
    main = start(*options)
    answers = []
    for process in (main, other):
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        answers.append(json.loads(out))
    assert answers[0]["id"] == answers[1]["id"]
    assert store.resolve("base@1").id == answers[0]["id"]
    assert store.resolve("base").manifest.config["nnodes"] == 2


@pytest.mark.slow
def test_a_rank_killed_on_one_node_is_named_on_both(store: Store, start: Start) -> None:
    options = two_nodes(free_port())
    nodes = [start(*options, "--node-rank", "1", steps=2000), start(*options, steps=2000)]
    until(lambda: steps_done(store) > 5)
    of_rank(store, 1).kill()
    for process in nodes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1, err
        assert "rank 1 of 2 failed: it was killed by SIGKILL" in err
    assert not workers(store)


def test_a_node_with_other_options_or_without_node_0_is_an_error(
    store: Store, tokens: Artifact, session: Session, tiny: dict[str, Any], tmp_path: Path
) -> None:
    given = tiny | {"nnodes": 2, "rendezvous": "localhost:1", "collective_timeout": 0.3}
    plan = plan_named(session, "train", given | {"node_rank": 1}, {"tokens": tokens})
    with pytest.raises(LongcatError, match=r"node 0 did not start within 0.3 s"):
        execute(plan, session)
    leader = plan_named(session, "train", given | {"nproc_per_node": 2}, {"tokens": tokens})
    staging = store.staging(plan.id)
    assert leader.id == plan.id
    config = leader.config.model_dump(mode="json")
    Launch("train", config, {}, str(staging.output), str(staging.work), str(tmp_path / "log"), "attempt").write()
    with pytest.raises(ConfigError, match=r"nproc_per_node = 1 here, 2 on node 0"):
        execute(plan, session)


def test_an_error_of_a_rank_keeps_its_kind(store: Store, start: Start) -> None:
    failed = start(min_document_tokens=1_000_000)  # only found when the tokens are read
    _, err = failed.communicate(timeout=100)
    assert failed.returncode == 3, err
    assert err.count("longcat: ") == 1
    assert "no document has 1000000 tokens" in err
    assert "of 2)" in err
    assert not workers(store)


@pytest.mark.parametrize(
    "values",
    [
        {"nnodes": 2},
        {"nnodes": 2, "rendezvous": "host"},
        {"nnodes": 2, "rendezvous": "host:99999"},
        {"node_rank": 1},
    ],
)
def test_inconsistent_launch_options(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rendezvous|node_rank"):
        LaunchOptions(**values)


def test_ranks_that_do_not_agree() -> None:
    facts = {"code": "a", "launch file": "b", "torch": "2"}
    check_agreement([facts, facts], announced=2, found=2)
    for name in facts:
        with pytest.raises(ConfigError, match=f"rank 1 has another {name} than rank 0"):
            check_agreement([facts, facts | {name: "x"}], announced=2, found=2)
    with pytest.raises(ConfigError, match="2 processes joined"):
        check_agreement([facts, facts], announced=4, found=2)


def test_errors_cross_processes() -> None:
    error = rebuilt_error({"rank": 1, **describe(ConfigError("bad", where="here", hint="try"))}, 4, Path("log"))
    assert isinstance(error, ConfigError)
    assert str(error) == "here: bad (rank 1 of 4) (try)"
    full = rebuilt_error({"rank": 2, **describe(OSError(28, "No space left on device", "file"))}, 4, Path("log"))
    assert isinstance(full, OSError)
    assert (full.errno, full.filename) == (28, "file")
    other = rebuilt_error({"rank": 0, **describe(KeyError("x"))}, 2, Path("log"))
    assert "rank 0 of 2 failed: KeyError: 'x'" in str(other)
