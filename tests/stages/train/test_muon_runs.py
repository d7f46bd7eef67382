"""Runs with Muon: resumed, continued, published, grown and extended to the bit, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.runner import Session
from longcat.pipeline.store import Store
from longcat.stages.formats.checkpoint import read_model, read_start
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.train.joins.resume_from import publish_run
from longcat.stages.train.optim.adamw import ADAMW_KEYS, MUON_KEYS

Contents = Callable[[Artifact], dict[str, str]]
TRAINED = ("model.safetensors", "training/optimizer.safetensors")
MUON = {"kind": "muon", "cautious_decay": True, "muon": {"per_head": True}}


@pytest.fixture
def config(tiny: dict[str, Any]) -> dict[str, Any]:
    """8 steps of one schedule, saved after 3 and 6; a fixed coefficient, which a join does not measure again."""
    fixed = {"balance_loss": {"coefficient": 1e-3}, "schedule": {"total_steps": 8}}
    return tiny | fixed | {"optimizer": MUON}


def bits(artifact: Artifact, contents: Contents) -> dict[str, str]:
    return {name: contents(artifact)[name] for name in TRAINED}


def test_it_learns_and_keeps_its_moments(run_stage: Any, config: dict[str, Any], tokens: Artifact) -> None:
    trained = run_stage("train", config | {"steps": 40, "schedule": {}}, {"tokens": tokens})
    losses = [record["loss"] for record in read_metrics(trained.file("metrics.jsonl"))]
    assert sum(losses[-5:]) / 5 < losses[0] - 0.5
    keys: dict[str, set[str]] = {}
    for name in read_start(trained).moments:
        keys.setdefault(name.rpartition(".")[0], set()).add(name.rpartition(".")[2])
    assert keys.keys() == dict(read_model(trained).named_parameters()).keys()
    assert {name for name, found in keys.items() if found == set(MUON_KEYS)} >= {
        "model.layers.0.mlp.experts.gate_up_proj",
        "model.layers.0.self_attn.1.kv_b_proj.weight",
    }
    adam = {name for name, found in keys.items() if found == set(ADAMW_KEYS)}
    assert adam >= {"lm_head.weight", "model.layers.0.mlp.router.classifier.weight", "model.norm.weight"}


def test_a_killed_run_ends_with_the_same_bits(
    store: Store, run_stage: Any, config: dict[str, Any], tokens: Artifact, contents: Contents
) -> None:
    whole = run_stage("train", config, {"tokens": tokens})
    expected = contents(whole)
    store.remove(whole)
    child = [sys.executable, str(Path(__file__).parent / "killed_run.py"), str(store.root), str(tokens.path)]
    done = subprocess.run([*child, json.dumps(config), "4"], env=dict(os.environ), capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [path.name for path in store.root.glob(".staging/*/work/training/checkpoints/step-*")] == ["step-000000003"]
    assert contents(run_stage("train", config, {"tokens": tokens})) == expected


def test_a_failed_run_in_half_precision_ends_with_the_same_bits(
    run_apart: Any, run_stage: Any, interrupt: Any, config: dict[str, Any], tokens: Artifact, contents: Contents
) -> None:
    config |= {"dtype": "bfloat16"}
    interrupt(config, after=4)
    assert contents(run_stage("train", config, {"tokens": tokens})) == contents(
        run_apart("train", config, {"tokens": tokens})
    )


@pytest.mark.parametrize("preset", ["smoke", "tiny-ngram"])
def test_two_runs_equal_one(
    preset: str, run_stage: Any, config: dict[str, Any], tokens: Artifact, contents: Contents
) -> None:
    """With n-gram tables three optimizers share one state."""
    config |= {"preset": preset}
    whole = run_stage("train", config, {"tokens": tokens})
    first = run_stage("train", config | {"steps": 5}, {"tokens": tokens})
    second = run_stage("train", config | {"steps": 3, "preset": None}, {"tokens": tokens, "checkpoint": first})
    assert bits(second, contents) == bits(whole, contents)
    suffixes = {name.rpartition(".")[2] for name in read_start(whole).moments}
    assert suffixes == {*ADAMW_KEYS, *MUON_KEYS, *(("rows",) if preset == "tiny-ngram" else ())}


def test_a_save_becomes_a_checkpoint(
    session: Session, run_apart: Any, interrupt: Any, config: dict[str, Any], tokens: Artifact, contents: Contents
) -> None:
    short = run_apart("train", config | {"steps": 6}, {"tokens": tokens})
    interrupt(config, name="live")
    assert bits(publish_run(session, "live", "rescued").artifact, contents) == bits(short, contents)


@pytest.mark.parametrize(("moments", "divisor"), [("copy", 1), ("rescale", 2), ("zero", None)])
def test_a_grown_model_trains_on(
    moments: str, divisor: int | None, run_stage: Any, config: dict[str, Any], tokens: Artifact
) -> None:
    base = run_stage("train", config | {"steps": 4}, {"tokens": tokens})
    grown = run_stage("grow", {"moments": moments}, {"checkpoint": base})
    small, large = read_start(base).moments, read_start(grown).moments
    name = "mlp.experts.down_proj.momentum"
    for layer in (0, 1) if divisor else ():
        assert torch.equal(large[f"model.layers.{layer}.{name}"] * divisor, small[f"model.layers.0.{name}"])
    assert bool(large) == (divisor is not None)
    onward = run_stage("train", config | {"steps": 4, "preset": None}, {"tokens": tokens, "checkpoint": grown})
    assert len(read_start(onward).moments) > len(small)


def test_extension_continues_it(run_stage: Any, config: dict[str, Any], make_tokens: Any) -> None:
    tokens = make_tokens([*range(20, 100), 300, 400])
    base = run_stage("train", config | {"steps": 4}, {"tokens": tokens})
    phases = [{"sequence_length": length, "rope_theta": 5e6, "steps": 2, "batch_size": 1} for length in (64, 128)]
    own = {"phases": phases, "device": "cpu", "threads": 1, "long_document_fraction": 0, "optimizer": MUON}
    extended = run_stage("extend", own, {"checkpoint": base, "tokens": tokens})
    before, after = read_start(base).moments, read_start(extended).moments
    assert before.keys() == after.keys()
    name = "model.layers.0.mlp.experts.down_proj.momentum"
    # An average of gradients of four steps, and of four more.
    assert not torch.equal(before[name], after[name])
    assert after["lm_head.weight.step"] == before["lm_head.weight.step"] + 4


def test_the_other_optimizer_starts_without_moments(
    run_stage: Any, config: dict[str, Any], tokens: Artifact, store: Store
) -> None:
    base = run_stage("train", config | {"steps": 4}, {"tokens": tokens})
    onward = config | {"steps": 4, "preset": None, "optimizer": {}}
    with pytest.raises(ConfigError, match=r"optimizer.kind is adamw, .* is that of muon") as caught:
        run_stage("train", onward, {"tokens": tokens, "checkpoint": base})
    assert "optimizer.state: reset" in str(caught.value.hint)
    assert [artifact.id for artifact in store.artifacts() if artifact.kind == "checkpoint"] == [base.id]
    reset = run_stage("train", onward | {"optimizer": {"state": "reset"}}, {"tokens": tokens, "checkpoint": base})
    assert {name.rpartition(".")[2] for name in read_start(reset).moments} == set(ADAMW_KEYS)
