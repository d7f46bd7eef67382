"""`longcat train` in several processes: equal to one process, and checkpoints that any number of processes can read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from longcat.pipeline.artifact import Artifact
from longcat.stages.formats.metrics import read_metrics

# Two micro batches of one row for each of two data ranks; eps prevents rounding from becoming Adam steps.
OPTIONS = (
    *("--preset", "smoke", "--steps", "6", "--batch-size", "4", "--micro-batch-size", "1", "--sequence-length", "32"),
    *("--threads", "1", "--device", "cpu", "--checkpoint-every", "2", "--set", "optimizer.eps=1e-6"),
    *("--set", "model.num_nextn_predict_layers=1", "--set", "evaluation.windows=3", "--set", "stability.every=3"),
    *("--set", "balance_loss.every=3"),
    *("--set", "optimizer.average_decay=0.5", "--set", "watch.tensorboard=false", "--set", "model.num_layers=2"),
)


def train(
    root: Path, tokens: Artifact, *more: str, expect: int = 0, options: tuple[str, ...] = OPTIONS
) -> dict[str, Any]:
    """Run the command in a separate store with the same tokens; return its output."""
    call = [*command(root, tokens, options=options), *more, "--json"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == expect, done.stderr
    return dict(json.loads(done.stdout)) if not expect else {"error": done.stderr}


def command(root: Path, tokens: Artifact, stage: str = "train", options: tuple[str, ...] = OPTIONS) -> list[str]:
    if not (folder := root / "tokens" / tokens.id).exists():
        shutil.copytree(tokens.path, folder)
    return [sys.executable, "-m", "longcat.cli", "--store", str(root), stage, "--tokens", tokens.id, *options]


def sets(**options: Any) -> list[str]:
    return [part for name, value in options.items() for part in ("--set", f"parallel.{name}={value}")]


def assert_close(one: dict[str, Any], other: dict[str, Any], relative: float = 1e-5) -> None:
    """Assert equal weights, moments, averages and lines of metrics.jsonl, up to rounding."""
    for file in ("model.safetensors", "training/optimizer.safetensors", "training/average.safetensors"):
        first, second = (load_file(Path(run["path"]) / file) for run in (one, other))
        assert first.keys() == second.keys()
        # Moments are small differences of gradients, which are most affected by rounding.
        limit = relative if file == "model.safetensors" else 10 * relative
        for name, tensor in first.items():
            scale = tensor.float().norm().clamp(min=1e-6)
            assert (second[name] - tensor).float().norm() / scale < limit, name
    for a, b in zip(*(read_metrics(Path(run["path"]) / "metrics.jsonl") for run in (one, other)), strict=True):
        assert a.keys() == b.keys()
        assert a["expert_load"] == b["expert_load"] if "expert_load" in a else True
        for key in ("loss", "mtp_loss", "hidden_z_loss", "balance_loss", "gradient_norm", "active_experts"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), key
        for key, value in a.get("stability", {}).items():
            assert b["stability"][key] == pytest.approx(value, rel=1e-3, abs=1e-6), key
    first, second = flops_per_token(one), flops_per_token(other)
    assert second == pytest.approx(first, rel=1e-9)
    last = [read_metrics(Path(run["path"]) / "metrics.jsonl")[-1] for run in (one, other)]
    for key in ("validation_loss", "validation_loss_of_average"):
        assert last[1][key] == pytest.approx(last[0][key], rel=1e-5)


def flops_per_token(run: dict[str, Any]) -> dict[int, float]:
    """FLOPs per token by step, as the utilisation in the run log implies; summed over all processes."""
    found, devices, peak = {}, 0, 0.0
    log = Path(run["path"]).parents[1] / "logs" / f"{run['id']}.jsonl"
    for event in map(json.loads, log.read_text().splitlines()):
        if event["event"] == "watch":
            devices, peak = event["devices"], event["peak_flops"]
        elif event["event"] == "step":
            found[event["step"]] = event["mfu"] * devices * peak / event["tokens_per_second"]
    return found


@pytest.fixture(scope="module")
def store_of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store with the run of one process, made once."""
    return tmp_path_factory.mktemp("one")


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {}),
        (2, {"expert": 2}),
        (2, {"context": 2}),
        (2, {"pipeline": 2}),
        (4, {"expert": 2, "context": 2}),
    ],
    ids=["fsdp", "expert", "context", "pipeline", "expert and context"],
)
def test_any_distribution_gives_the_same(
    processes: int, options: dict[str, int], store_of_one: Path, tmp_path: Path, tokens: Artifact
) -> None:
    one = train(store_of_one, tokens)
    many = train(tmp_path, tokens, "--nproc-per-node", str(processes), *sets(**options))
    assert one["id"] == many["id"]
    assert_close(one, many)


@pytest.mark.slow
def test_muon_in_two_processes_that_share_experts(tmp_path: Path, tokens: Artifact) -> None:
    options = (*OPTIONS, "--set", "optimizer.kind=muon", "--set", "optimizer.cautious_decay=true")
    one = train(tmp_path / "one", tokens, options=options)
    many = train(tmp_path / "two", tokens, "--nproc-per-node", "2", *sets(expert=2), options=options)
    assert_close(one, many)


def test_two_processes_then_one_then_four(store_of_one: Path, tmp_path: Path, tokens: Artifact) -> None:
    """A stopped run resumes with any other number of processes: the same batches and weights."""
    one = train(store_of_one, tokens)
    stopped_after(2, tmp_path, tokens, "2")
    stopped_after(4, tmp_path, tokens, "1")
    many = train(tmp_path, tokens, "--nproc-per-node", "4")
    assert_close(one, many, relative=1e-6)


@pytest.mark.slow
def test_other_settings_from_a_save_of_two_processes(tmp_path: Path, tokens: Artifact) -> None:
    """The command decides once which save it is; the processes get a checkpoint as input."""
    two, one = tmp_path / "two", tmp_path / "one"
    stopped_after(2, two, tokens, "2")
    (staging,) = two.glob(".staging/*/work")
    shutil.copytree(two, one)
    results = []
    for root, processes in ((one, "1"), (two, "2")):
        call = [sys.executable, "-m", "longcat.cli", "--store", str(root), "train", "--learning-rate", "1e-4"]
        call += ["--resume-from", f"{staging.parent.name}@2", "--nproc-per-node", processes, "--json"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert results[0]["id"] == results[1]["id"]
    assert results[0]["counts"]["steps"] == 4
    assert_close(*results)


def stopped_after(step: int, root: Path, tokens: Artifact, processes: str) -> None:
    """Run until this step is saved, then SIGKILL the whole process group."""
    run = subprocess.Popen([*command(root, tokens), "--nproc-per-node", processes], stderr=subprocess.DEVNULL)
    pattern = f".staging/*/work/training/checkpoints/step-{step:09d}"
    deadline = time.monotonic() + 60
    while not list(root.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.005)
    run.kill()
    run.wait(timeout=30)
    assert list(root.glob(pattern))


@pytest.mark.parametrize(("stage", "options"), [("train", {"expert": 2}), ("extend", {"context": 2})])
def test_continuing_from_a_checkpoint(
    stage: str, options: dict[str, int], store_of_one: Path, tmp_path: Path, tokens: Artifact
) -> None:
    """Each process loads its part of the weights, moments and averages; extension passes them between phases."""
    base = train(store_of_one, tokens)
    shutil.copytree(base["path"], tmp_path / "checkpoint" / base["id"])
    phases = "[{sequence_length: 32, rope_theta: 5e6, steps: 2, batch_size: 2}, "
    phases += "{sequence_length: 64, rope_theta: 1e7, steps: 2, batch_size: 2}]"
    common = ("--threads", "1", "--set", "optimizer.eps=1e-6", "--set", "optimizer.average_decay=0.5")
    own = {
        "train": ("--steps", "2", "--batch-size", "4", "--micro-batch-size", "1", "--sequence-length", "32"),
        "extend": ("--set", f"phases={phases}", "--long-document-fraction", "0"),
    }
    given = ("--checkpoint", base["id"], *common, *own[stage])
    results = []
    for root, more in ((store_of_one, []), (tmp_path, ["--nproc-per-node", "2", *sets(**options)])):
        call = [*command(root, tokens, stage, given), *more, "--json"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
    assert results[0]["id"] == results[1]["id"]
    assert_close(*results)


def test_a_batch_that_cannot_be_divided(tmp_path: Path, tokens: Artifact) -> None:
    at = OPTIONS.index("--batch-size") + 1
    options = (*OPTIONS[:at], "3", *OPTIONS[at + 1 :])
    error = train(tmp_path, tokens, "--nproc-per-node", "2", expect=3, options=options)["error"]
    assert "batch_size = 3 is not a multiple of 2 data groups" in error
