"""Runs with a balance between windows: what they refuse, save, resume and leave unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longcat.cli.app import run
from longcat.model import mixers
from longcat.model.config import ModelConfig
from longcat.model.presets import load_preset
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import identity_values
from longcat.pipeline.errors import ConfigError, IntegrityError
from longcat.pipeline.store import Store
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.sparse_balance.check import check_balance

BUDGETED: dict[str, Any] = {"attention": {"kind": "test_budgeted", "k": 8}}
LATENCY = [[1e-6, 1e-6, 2e-6, 1e-8]]
MOVED = {"assign": "sparsity", "budgets": "mean", "groups": 2, "measure_every": 3, "coverage_loss": 0.3}


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "tests.stages.train.sparse_balance.budgeted:BudgetedAttention"
    monkeypatch.setitem(mixers.KINDS, "test_budgeted", kind)


@pytest.fixture
def long_and_short(make_tokens: Any) -> Artifact:
    """Windows of one document beside windows of many."""
    return make_tokens([150 if number % 10 == 0 else 6 for number in range(600)])


def weights(artifact: Artifact) -> dict[str, torch.Tensor]:
    return dict(load_file(artifact.file("model.safetensors")))


def records(artifact: Artifact) -> list[dict[str, Any]]:
    return read_metrics(artifact.path / "metrics.jsonl")


def test_without_a_balance_the_id_and_the_records_are_as_before(
    run_stage: Any, long_and_short: Artifact, tiny: dict[str, Any]
) -> None:
    values = identity_values(TrainConfig(steps=1, preset="smoke"))
    assert "sparse_balance" not in values
    plain = TrainConfig.model_validate({"steps": 1, "sparse_balance": {"assign": "length"}})
    assert identity_values(plain)["sparse_balance"]["assign"] == "length"
    trained = run_stage("train", tiny | {"steps": 2}, {"tokens": long_and_short})
    assert not {"imbalance", "budget_ratio", "coverage_loss"} & records(trained)[0].keys()


@pytest.mark.parametrize("assign", ["length", "sparsity"])
def test_assigned_windows_give_the_gradients_of_the_plain_order(
    run_stage: Any, long_and_short: Artifact, tiny: dict[str, Any], assign: str
) -> None:
    """Only the order of sums differs; eps prevents rounding from becoming Adam steps."""
    shared = tiny | {"optimizer": {"eps": 1e-6}, "micro_batch_size": 1, "steps": 6}
    options = {"assign": assign, "groups": 2}
    if assign == "sparsity":
        options["latency"] = LATENCY
    plain = run_stage("train", shared, {"tokens": long_and_short})
    balanced = run_stage("train", shared | {"sparse_balance": options}, {"tokens": long_and_short})
    assert plain.id != balanced.id
    expected, found = weights(plain), weights(balanced)
    for name, tensor in expected.items():
        assert (found[name] - tensor).norm() <= 1e-5 * tensor.norm(), name
    for one, other in zip(records(plain), records(balanced), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
        assert other["active_experts"] == one["active_experts"] or one["step"] > 1
    assert max(record["imbalance"] for record in records(balanced)) < 1.7


def test_a_killed_run_with_moved_budgets_resumes_to_the_bit(
    run_stage: Any,
    tokens: Artifact,
    tiny: dict[str, Any],
    interrupt: Any,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also with other prefetching and micro batches of another size; the latency model is measured once."""
    from longcat.stages.train.sparse_balance import profile

    measured: list[int] = []
    original = profile.measure

    def measure(*given: Any) -> Any:
        measured.append(1)
        return original(*given)

    monkeypatch.setattr(profile, "measure", measure)
    config = tiny | {"model": BUDGETED, "sparse_balance": MOVED}
    identifier = interrupt(config, after=7)
    (kept,) = (store.root / ".staging" / identifier).rglob("latency.json")
    saved = kept.read_bytes()
    first = run_stage("train", config | {"loader_workers": 0}, {"tokens": tokens})
    expected = first.file("model.safetensors").read_bytes(), records(first)
    assert first.file("training/latency.json").read_bytes() == saved
    assert len(measured) == 1
    store.remove(first)
    latency = [row["coefficients"] for row in json.loads(saved)["layers"]]
    monkeypatch.setattr(profile, "_read_or_measure", lambda *_: latency)
    again = run_stage("train", config | {"loader_workers": 2}, {"tokens": tokens})
    assert (again.file("model.safetensors").read_bytes(), records(again)) == expected
    assert any(record["budget_ratio"] != 1 for record in records(again))


def test_a_lost_latency_model_is_never_measured_again(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], interrupt: Any, store: Store
) -> None:
    config = tiny | {"model": BUDGETED, "sparse_balance": MOVED}
    identifier = interrupt(config, after=7)
    (kept,) = (store.root / ".staging" / identifier).rglob("latency.json")
    kept.write_text('{"layers": [{"coefficients": [1, 2, 3]}]}')
    with pytest.raises(IntegrityError, match=r"1 rows of 4 coefficients"):
        run_stage("train", config, {"tokens": tokens})
    kept.unlink()
    with pytest.raises(IntegrityError, match=r"latency model of this run is missing"):
        run_stage("train", config, {"tokens": tokens})


def test_budgets_move_within_the_bound(run_stage: Any, long_and_short: Artifact, tiny: dict[str, Any]) -> None:
    def run_with(bound: float) -> list[dict[str, Any]]:
        moved = MOVED | {"assign": "none", "coverage_loss": bound, "latency": LATENCY}
        config = tiny | {"model": BUDGETED, "sparse_balance": moved}
        return records(run_stage("train", config, {"tokens": long_and_short}))

    free, bounded = run_with(0.5), run_with(0.0)
    assert free[0]["coverage_loss"] == 0  # nothing is known before the first measurement
    assert 0 < max(record["coverage_loss"] for record in free) <= 0.5
    assert all(record["coverage_loss"] == 0 for record in bounded)
    assert any(a["loss"] != b["loss"] for a, b in zip(free, bounded, strict=True))


def test_a_balanced_run_is_planned_and_refused_like_a_run(
    tokens: Artifact, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command of docs/parallel.md."""
    command = ["--store", str(store.root), "train", "--tokens", tokens.id, "--preset", "smoke", "--steps", "4"]
    command += ["--batch-size", "16", "--micro-batch-size", "1", "--nproc-per-node", "4", "--dry-run"]
    command += ["--set", "sparse_balance.assign=sparsity", "--set", "sparse_balance.groups=4"]
    command += ["--set", "sparse_balance.budgets=mean"]
    assert run([*command, "--set", "model.attention={kind: topk, k: 64}"]) == 0
    assert run(command) == 3
    assert "attention 'mla' of layer 0 has no budgets" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["lsa", "topk"])
def test_kinds_that_choose_positions_move_their_budgets(
    run_stage: Any, long_and_short: Artifact, tiny: dict[str, Any], kind: str
) -> None:
    attention: dict[str, Any] = {"kind": "topk", "k": 8}
    if kind == "lsa":
        attention = {"kind": "lsa", "index_topk": 8, "index_n_heads": 2, "index_head_dim": 16}
        attention |= {"index_init_tokens": 1, "index_local_tokens": 1}
    moved = MOVED | {"assign": "none", "coverage_loss": 0.5, "latency": LATENCY}
    config = tiny | {"model": {"attention": attention}, "sparse_balance": moved, "steps": 4}
    found = records(run_stage("train", config, {"tokens": long_and_short}))
    assert 0 < max(record["coverage_loss"] for record in found) <= 0.5


def test_recomputation_changes_nothing(
    run_stage: Any, long_and_short: Artifact, tiny: dict[str, Any], run_apart: Any
) -> None:
    config = tiny | {"model": BUDGETED, "sparse_balance": MOVED | {"latency": LATENCY}, "steps": 5}
    one = run_apart("train", config, {"tokens": long_and_short})
    other = run_apart("train", config | {"activation_checkpointing": "block"}, {"tokens": long_and_short})
    assert records(one) == records(other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": 2}, "nothing is balanced"),
        ({"budgets": "mean"}, "needs groups of 2 or more"),
        ({"assign": "length", "latency": LATENCY}, "nothing is predicted"),
        ({"assign": "area"}, "sparse_balance.assign"),
    ],
)
def test_options_that_contradict_each_other(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_stage("train", tiny | {"sparse_balance": options}, {"tokens": tokens})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {}}, "attention 'mla' of layer 0 has no budgets"),
        ({"model": {"attention": {"pattern": ["test_budgeted", "mla"]}}}, "attention 'mla' of layer 0 has no budgets"),
        (
            {"model": {"attention": {"pattern": [{"kind": "test_budgeted", "k": 4}, "test_budgeted"]}}},
            "layer 0 have the budgets 4 and 8",
        ),
        ({"compile": True}, "with compile: true"),
        ({"batch_size": 6, "sparse_balance": MOVED | {"groups": 4}}, "batch_size = 6 is not a multiple of groups = 4"),
        ({"sparse_balance": MOVED | {"latency": LATENCY * 3}}, "has 3 rows, the model 1 different layers"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    config = tiny | {"model": BUDGETED, "sparse_balance": MOVED} | changes
    with pytest.raises(ConfigError, match=words):
        run_stage("train", config, {"tokens": tokens})


@pytest.mark.parametrize(
    ("parallel", "processes", "words"),
    [
        ({"context": 2}, 4, "parallel.context = 2: coverage is measured on whole rows"),
        ({}, 4, "groups = 2 is not a multiple of data_replicate \\* data_shard = 4"),
    ],
)
def test_processes_that_do_not_fit(parallel: dict[str, int], processes: int, words: str) -> None:
    model = ModelConfig(**{**load_preset("smoke").model_dump(), **BUDGETED})
    config = TrainConfig.model_validate(
        {"steps": 1, "parallel": parallel, "nproc_per_node": processes, "sparse_balance": MOVED}
    )
    with pytest.raises(ConfigError, match=words):
        check_balance(config, model, 8)


def test_the_profile_covers_lengths_and_budgets(tmp_path: Path) -> None:
    from longcat.stages.train.sparse_balance.latency import fit
    from longcat.stages.train.sparse_balance.profile import measure

    model = ModelConfig(**{**load_preset("smoke").model_dump(), **BUDGETED})
    points = list(measure(model, 0, 64, torch.device("cpu"), torch.float32))
    assert {point["length"] for _, point in points} == {1, 4, 16, 64}
    assert {point["budget"] for _, point in points if point["length"] == 64} == {2, 4, 8, 16}
    assert (fit([(row, point["seconds"]) for row, point in points]) > 0).any()
