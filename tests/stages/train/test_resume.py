"""A run that was stopped, killed or damaged ends with the same bits as an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InterruptedRunError
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.runner import Session
from longcat.pipeline.store import Store
from longcat.stages.train import trainer
from longcat.stages.train.checkpoints.resumable import RunCheckpoints

Contents = Callable[[Artifact], dict[str, str]]
CHILD = Path(__file__).parent / "killed_run.py"


class PowerFailureError(Exception):
    """Simulates a power failure."""


@pytest.fixture
def undisturbed(store: Store, tokens: Artifact, tiny: dict[str, Any], run_stage: Any, contents: Contents) -> Any:
    """Hashes of an undisturbed run, whose artifact is deleted afterwards."""
    artifact = run_stage("train", tiny, {"tokens": tokens})
    expected = contents(artifact), artifact.manifest.metrics, artifact.manifest.counts
    store.remove(artifact)
    return expected


def check(artifact: Artifact, undisturbed: Any, contents: Contents) -> None:
    assert contents(artifact) == undisturbed[0]
    assert (artifact.manifest.metrics, artifact.manifest.counts) == undisturbed[1:]


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, *, before: bool) -> None:
    """Let call number `call` of a method raise, before or after its work; later calls are unchanged."""
    original, calls = getattr(owner, name), [0]

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and before:
            raise PowerFailureError
        result = original(*arguments, **keywords)
        if calls[0] == call:
            raise PowerFailureError
        return result

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("call", [1, 3, 4, 8])
def test_power_failure_around_a_step(
    call: int,
    before: bool,
    undisturbed: Any,
    tokens: Artifact,
    tiny: dict[str, Any],
    run_stage: Any,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_once(monkeypatch, trainer.TrainingRun, "step", call, before=before)
    with pytest.raises(PowerFailureError):
        run_stage("train", tiny, {"tokens": tokens})
    check(run_stage("train", tiny, {"tokens": tokens}), undisturbed, contents)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        ("longcat.stages.train.checkpoints.resumable.fsync_file", "file", 2),
        ("longcat.stages.train.checkpoints.resumable.fsync_file", "file", 5),
        ("longcat.stages.train.checkpoints.resumable.fsync_folder", "folder", 3),
        ("longcat.stages.train.checkpoints.resumable.fsync_folder", "folder", 4),
        ("longcat.stages.formats.checkpoint.save_pretrained", "output", 1),
        ("longcat.stages.formats.checkpoint.copy_tokenizer", "output", 1),
    ],
)
def test_power_failure_while_saving(
    owner: str,
    name: str,
    call: int,
    undisturbed: Any,
    tokens: Artifact,
    tiny: dict[str, Any],
    run_stage: Any,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, _, function = owner.rpartition(".")
    __import__(module)
    fail_once(monkeypatch, sys.modules[module], function, call, before=False)
    with pytest.raises(PowerFailureError):
        run_stage("train", tiny, {"tokens": tokens})
    check(run_stage("train", tiny, {"tokens": tokens}), undisturbed, contents)


def test_several_interruptions(
    undisturbed: Any,
    session: Session,
    tokens: Artifact,
    tiny: dict[str, Any],
    run_stage: Any,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = trainer.TrainingRun.step

    def stopped(self: Any, done: int) -> Any:
        session.stop.requested = True
        return original(self, done)

    monkeypatch.setattr(trainer.TrainingRun, "step", stopped)
    for _ in range(3):
        session.stop = StopSignal()
        with pytest.raises(InterruptedRunError):
            run_stage("train", tiny, {"tokens": tokens})
    monkeypatch.undo()
    session.stop = StopSignal()
    done: list[int] = []
    monkeypatch.setattr(trainer.TrainingRun, "step", lambda self, at: done.append(at) or original(self, at))
    check(run_stage("train", tiny, {"tokens": tokens}), undisturbed, contents)
    assert done == [3, 4, 5, 6, 7]  # no step is repeated after a clean stop


def _interrupt_after(steps: int, run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        fail_once(patch, trainer.TrainingRun, "step", steps + 1, before=True)
        with pytest.raises(PowerFailureError):
            run()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "state", "metrics"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    damage: str,
    undisturbed: Any,
    store: Store,
    tokens: Artifact,
    tiny: dict[str, Any],
    run_stage: Any,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run() -> Artifact:
        return run_stage("train", tiny, {"tokens": tokens})

    _interrupt_after(7, run, monkeypatch)
    (work,) = (store.root / ".staging").glob("*/work/training")
    folders = sorted((work / "checkpoints").iterdir())
    assert [folder.name for folder in folders] == ["step-000000003", "step-000000006"]
    victim = folders[1] / ("state.json" if damage == "state" else "model-00000.safetensors")
    if damage == "truncate":
        os.truncate(victim, victim.stat().st_size - 1)
    elif damage == "flip":
        data = bytearray(victim.read_bytes())
        data[-5] ^= 1
        victim.write_bytes(data)
    elif damage == "remove":
        victim.unlink()
    elif damage == "state":
        victim.write_text(victim.read_text().replace('"step":6', '"step":5'))
    else:
        lines = (work / "metrics.jsonl").read_text().splitlines(keepends=True)
        (work / "metrics.jsonl").write_text("".join(lines[:4]))
    resumed: list[int] = []
    original = RunCheckpoints.latest

    def latest(self: RunCheckpoints, *arguments: Any) -> Any:
        saved = original(self, *arguments)
        resumed.append(saved.step if saved else 0)
        return saved

    monkeypatch.setattr(RunCheckpoints, "latest", latest)
    check(run(), undisturbed, contents)
    assert resumed == [3]
    assert "step-000000006 is damaged" in caplog.text


def test_keeps_only_the_last_checkpoints(
    store: Store, tokens: Artifact, tiny: dict[str, Any], run_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny | {"checkpoint_every": 1, "keep_last": 3}
    _interrupt_after(6, lambda: run_stage("train", config, {"tokens": tokens}), monkeypatch)
    names = sorted(path.name for path in (store.root / ".staging").glob("*/work/training/checkpoints/*"))
    assert names == ["step-000000004", "step-000000005", "step-000000006"]


def _child(store: Store, tokens: Artifact, config: dict[str, Any]) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(CHILD), str(store.root), tokens.id, json.dumps(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _lines(store: Store) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (store.root / ".staging").glob("*/work/*/metrics.jsonl"))


def test_sigkill_and_sigterm_of_a_child(
    store: Store, tokens: Artifact, tiny: dict[str, Any], run_stage: Any, contents: Contents
) -> None:
    config = tiny | {"steps": 60, "checkpoint_every": 8}
    expected = run_stage("train", config, {"tokens": tokens})
    hashes = contents(expected), expected.manifest.metrics, expected.manifest.counts
    store.remove(expected)
    for number, lines in ((signal.SIGKILL, 20), (signal.SIGTERM, 35)):
        child = _child(store, tokens, config)
        deadline = time.monotonic() + 120
        while _lines(store) < lines and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(number)
        _, errors = child.communicate(timeout=120)
        assert child.returncode == (130 if number == signal.SIGTERM else -signal.SIGKILL), errors.decode()
    check(run_stage("train", config, {"tokens": tokens}), hashes, contents)
