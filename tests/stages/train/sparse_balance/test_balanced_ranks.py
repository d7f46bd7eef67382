"""Balanced runs in 2 and 4 gloo processes, equal to one process; see ranks.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from longcat.pipeline.artifact import Artifact
from longcat.stages.formats.metrics import read_metrics

Outputs = Callable[..., list[Path]]
SLOW = pytest.mark.slow
HERE = Path(__file__).parent
SECONDS = 240
BUDGETED: dict[str, Any] = {"attention": {"kind": "test_budgeted", "k": 8}, "num_layers": 2}
LATENCY = [[1e-6, 1e-6, 2e-6, 1e-8]]
MOVED = {"assign": "sparsity", "budgets": "mean", "measure_every": 2, "coverage_loss": 0.3, "latency": LATENCY}
COMMON = {
    "steps": 4,
    "batch_size": 4,
    "micro_batch_size": 1,
    "optimizer": {"eps": 1e-6},
    "watch": {"tensorboard": False},
}

# Name: processes, options.
RUNS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"sparse_balance": MOVED | {"groups": 2}}),
    "shards": (2, {"sparse_balance": MOVED | {"groups": 2}}),
    "pipeline": (2, {"sparse_balance": MOVED | {"groups": 2}, "parallel": {"pipeline": 2}}),
    "pipeline of shards": (4, {"sparse_balance": MOVED | {"groups": 2}, "parallel": {"pipeline": 2}}),
    "plain": (1, {"model": {}}),
    "context": (2, {"model": {}, "sparse_balance": {"assign": "length", "groups": 2}, "parallel": {"context": 2}}),
    "four shards": (4, {"model": {}, "sparse_balance": {"assign": "sparsity", "latency": LATENCY}}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture
def outputs(folder: Path, make_tokens: Any, tiny: dict[str, Any]) -> Outputs:
    """Output folders of some runs; every run is made once."""

    def of(*names: str) -> list[Path]:
        wanted = [name for name in names if not (folder / name).exists()]
        tokens: Artifact = make_tokens([150 if number % 8 == 0 else 6 for number in range(200)])
        runs = [
            {"name": name, "world": RUNS[name][0], "config": tiny | COMMON | {"model": BUDGETED} | RUNS[name][1]}
            for name in wanted
        ]
        (folder / "runs.json").write_text(json.dumps({"tokens": str(tokens.path), "runs": runs}))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        call = [sys.executable, str(HERE / "ranks.py"), str(folder)]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return [folder / name / "output" for name in names]

    return of


def assert_equal_up_to_rounding(one: Path, other: Path) -> None:
    expected, found = (load_file(path / "model.safetensors") for path in (one, other))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-5 * tensor.norm(), name
    for a, b in zip(*(read_metrics(path / "metrics.jsonl") for path in (one, other)), strict=True):
        for key in ("loss", "gradient_norm"):
            assert b[key] == pytest.approx(a[key], rel=1e-4), key


@pytest.mark.parametrize(
    "name",
    ["shards", pytest.param("pipeline", marks=SLOW), pytest.param("pipeline of shards", marks=SLOW)],
)
def test_moved_budgets_are_the_same_for_any_number_of_processes(outputs: Outputs, name: str) -> None:
    assert_equal_up_to_rounding(*(runs := outputs("one", name)))
    one, other = (read_metrics(run / "metrics.jsonl") for run in runs)
    for a, b in zip(one, other, strict=True):
        assert {key: b[key] for key in ("imbalance", "budget_ratio")} == {
            key: a[key] for key in ("imbalance", "budget_ratio")
        }
        assert b["coverage_loss"] == pytest.approx(a["coverage_loss"], abs=2e-6)
    assert any(record["coverage_loss"] > 0 for record in other)


@pytest.mark.parametrize("name", [pytest.param("context", marks=SLOW), "four shards"])
def test_assigned_windows_give_the_weights_of_the_plain_order(outputs: Outputs, name: str) -> None:
    plain, assigned = outputs("plain", name)
    assert_equal_up_to_rounding(plain, assigned)
    assert "imbalance" in read_metrics(assigned / "metrics.jsonl")[0]
    if name == "context":
        return  # processes wait for each other within attention
    lines = (assigned.parent / "log.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if line["event"] == "step"]
    assert [step["imbalance"] >= 1 for step in steps] == [True] * len(steps) != []
