"""A killed run goes on with other settings that change no bit of the weights; see `test_identity_fields`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import merge
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.train import trainer

CHILD = Path(__file__).parent / "killed_run.py"
WEIGHTS = ("model.safetensors", "training/optimizer.safetensors", "training/average.safetensors")
# Every field of `test_identity_fields` that training reads; the run measures, evaluates and saves after the kill too.
CHANGES: list[dict[str, Any]] = [
    {"keep_last": 5},
    {"checkpoint_every": 2},
    {"activation_checkpointing": "block"},
    {"activation_checkpointing": "selective"},
    {"evaluation": {"every": 1, "windows": 2}},
    {"stability": {"every": 0}},
    {"stability": {"every": 1, "layer_groups": 1}},
    {"stability": {"corruption_every": 1}},
    {"watch": {"tensorboard": False}},
    {"loader_workers": 0},
]


def settings(tiny: dict[str, Any]) -> dict[str, Any]:
    """A run of 10 steps, saved after 3, 6 and 9, whose alpha moves in steps 8 and 9 too."""
    changed = {"steps": 10, "optimizer": {"average_decay": 0.9}, "balance_loss": {"every": 8}}
    return merge(tiny, changed)


def kill_after(step: int, store: Store, tokens: Artifact, config: dict[str, Any]) -> None:
    """Run `train` in a child that is killed with SIGKILL once `step` steps are done."""
    command = [sys.executable, str(CHILD), str(store.root), tokens.id, json.dumps(config), str(step)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


def go_on(copy: Path, tokens: Artifact, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    """The artifact made in a copy of the killed run's store, and the first step that was trained."""
    trained: list[int] = []
    original = trainer.TrainingRun.step
    session = Session(Store(copy), engine=LocalEngine(workers=1))
    with monkeypatch.context() as patch:
        patch.setattr(trainer.TrainingRun, "step", lambda self, done: trained.append(done) or original(self, done))
        made = run_stage(session, "train", config, {"tokens": tokens.id}).artifact
    return made, trained[0] + 1


def test_settings_that_change_no_bit(
    store: Store, tokens: Artifact, tiny: dict[str, Any], contents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny)
    kill_after(7, store, tokens, config)
    shutil.copytree(store.root, tmp_path / "plain")
    expected, first = go_on(tmp_path / "plain", tokens, config, monkeypatch)
    assert first == 7  # the save of step 6
    for number, change in enumerate(CHANGES):
        copy = tmp_path / f"store-{number}"
        shutil.copytree(store.root, copy)
        made, first = go_on(copy, tokens, merge(config, change), monkeypatch)
        assert (made.id, first) == (expected.id, 7), change
        assert {name: contents(made)[name] for name in WEIGHTS} == {name: contents(expected)[name] for name in WEIGHTS}
        assert made.manifest.config != expected.manifest.config, "the manifest says what was used"


def test_a_changed_micro_batch_changes_rounding(
    store: Store, tokens: Artifact, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(tiny) | {"balance_loss": {"enabled": False}}
    kill_after(7, store, tokens, config)
    shutil.copytree(store.root, tmp_path / "plain")
    expected, _ = go_on(tmp_path / "plain", tokens, config, monkeypatch)
    made, first = go_on(store.root, tokens, config | {"micro_batch_size": 1}, monkeypatch)
    assert (made.id, first) == (expected.id, 7)
    before, after = (read_metrics(run.file("metrics.jsonl")) for run in (expected, made))
    assert after[:6] == before[:6]
    for a, b in zip(before, after, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
    known, found = (load_file(run.file("model.safetensors")) for run in (expected, made))
    assert max(float((found[name] - known[name]).abs().max()) for name in known) < 1e-4
