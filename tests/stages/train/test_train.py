"""Stage `train` as a whole."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from longcat.model.accounting import count, training_flops
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, LongcatError
from longcat.pipeline.runner import Session
from longcat.pipeline.tokens import TokenFile
from longcat.stages.formats.checkpoint import check_same_tokenizer, read_model, read_start
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state
from longcat.stages.formats.training_windows import training_windows
from longcat.stages.formats.windows import batch

Contents = Callable[[Artifact], dict[str, str]]


def test_loss_falls_below_the_unigram_loss(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    trained = run_stage("train", tiny | {"steps": 150, "batch_size": 8}, {"tokens": tokens})
    metrics = trained.manifest.metrics
    records = read_metrics(trained.file("metrics.jsonl"))
    assert records[0]["loss"] == pytest.approx(math.log(64), rel=0.1)
    assert metrics["train_loss"] < metrics["unigram_loss"] - 1
    assert metrics["validation_loss"] < metrics["unigram_loss"] - 1
    assert 3.8 < metrics["unigram_loss"] < math.log(64)


@pytest.mark.parametrize("document_mask", [True, False])
def test_validation_has_the_mask_of_training(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], document_mask: bool
) -> None:
    """The printed loss is that of every document's part of a window, computed alone; or of whole windows."""
    config = tiny | {"objective": {"document_mask": document_mask}, "learning_rate": 1e-2, "steps": 30}
    trained = run_stage("train", config, {"tokens": tokens})
    model, held = read_model(trained), TokenFile(tokens.path / "validation")
    available = -(-(held.total_tokens - 1) // 32)
    losses = []
    for window in sorted({number * available // 4 for number in range(4)}):
        first, last = window * 32, min(window * 32 + 32, held.total_tokens - 1)
        inside = [int(at) for at in held.document_offsets if first < at < last] if document_mask else []
        for start, end in pairwise([first, *inside, last]):
            ids = torch.from_numpy(held.tokens[start : end + 1].astype("int64"))
            losses.append(F.cross_entropy(model(ids[None, :-1]).logits[0], ids[1:], reduction="none").detach())
    expected = float(torch.cat(losses).double().mean())
    assert trained.manifest.metrics["validation_loss"] == pytest.approx(expected, rel=1e-6)


def test_checkpoint_has_the_published_layout(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    trained = run_stage("train", tiny, {"tokens": tokens})
    assert sorted(entry.path for entry in trained.manifest.files) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training/optimizer.safetensors",
        "training/state.json",
    ]
    model = read_model(trained)
    assert model.config.vocab_size == 64
    names = {name for name, _ in model.named_parameters()}
    assert set(read_start(trained).moments) == {
        f"{name}.{key}" for name in names for key in ("exp_avg", "exp_avg_sq", "step")
    }
    state = read_state(trained)
    assert (state.step, state.tokens, state.samples, state.schedule_position) == (8, 8 * 4 * 32, 32, 8)
    assert trained.manifest.counts["tokens"] == 8 * 4 * 32
    memory = {"estimated_memory_bytes", "peak_memory_bytes"}
    assert set(trained.manifest.performance) == {"tokens_per_second", "step_seconds"} | memory


def test_all_files_have_the_modes_of_the_umask(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    before = os.umask(0o027)
    try:
        artifact = run_stage("train", {**tiny, "optimizer": {"average_decay": 0.5}}, {"tokens": tokens})
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in artifact.path.rglob("*")}
    assert {"model.safetensors", "optimizer.safetensors", "average.safetensors"} < {path.name for path in modes}
    assert {path.name: oct(mode) for path, mode in modes.items() if mode != (0o750 if path.is_dir() else 0o640)} == {}


def test_multi_token_prediction_is_kept(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    """Training, continuing and growing keep the initial values of the layer while its loss has no weight."""
    tiny = tiny | {"objective": {"mtp_weight": 0}}
    options = tiny | {"model": {"num_nextn_predict_layers": 1}}
    trained = run_stage("train", options, {"tokens": tokens})
    plain = run_stage("train", tiny, {"tokens": tokens})
    on = {"preset": None, "steps": 2}
    grown = run_stage("grow", {"factor": 2}, {"checkpoint": trained})
    after = run_stage("train", tiny | on, {"tokens": tokens, "checkpoint": grown})
    weights = [load_file(checkpoint.file("model.safetensors")) for checkpoint in (trained, after)]
    carried = {key for key in weights[0] if ".mtp." in key}
    assert len(carried) == 17
    for key in carried:
        assert torch.equal(weights[0][key], weights[1][key])
    assert (weights[0]["model.mtp.norm.weight"] == 1).all()
    for key, tensor in load_file(plain.file("model.safetensors")).items():
        assert torch.equal(weights[0][key], tensor), key


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_expert_num": 0},
        {"zero_expert_type": "constant", "gating_residual": True},
        {"zero_expert_type": "null", "moe_layout": "interleaved"},
        {"moe_layout": "span", "num_nextn_predict_layers": 1},
    ],
)
def test_ablated_models_train(changes: dict[str, Any], run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    trained = run_stage("train", tiny | {"model": changes, "steps": 40}, {"tokens": tokens})
    records = read_metrics(trained.file("metrics.jsonl"))
    assert records[-1]["loss"] < records[0]["loss"] - 0.5
    config = read_model(trained).config
    assert {key: getattr(config, key) for key in changes} == changes


def test_metrics_have_no_times_and_the_log_has(
    session: Session, run_stage: Any, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    trained = run_stage("train", tiny | {"evaluation": {"every": 3, "windows": 2}}, {"tokens": tokens})
    records = read_metrics(trained.file("metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(1, 9))
    assert [record["step"] for record in records if "validation_loss" in record] == [3, 6, 8]
    assert "stability" in records[0] and "expert_load" in records[0]
    assert "stability" in records[3]  # steps 1, 2, 4, 8
    assert set(records[2]) == {
        "validation_loss",
        "step",
        "tokens",
        "loss",
        "learning_rate",
        "epoch",
        "gradient_norm",
        "balance_gain",
        "active_experts",
        "active_experts_std",
        "hidden_z_loss",
        "balance_loss",
        "balance_coefficient",
    }
    log = [json.loads(line) for line in session.store.log_path(trained.id).read_text().splitlines()]
    steps = [line for line in log if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert all(line["seconds"] > 0 and line["tokens_per_second"] > 0 for line in steps)
    opening = next(line for line in log if line["event"] == "watch")
    source = training_windows(tokens.path, sequence_length=32, seed=0)
    config = read_model(trained).config
    width = config.num_attention_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    for line, recorded in zip(steps, records, strict=True):
        first = 4 * (recorded["step"] - 1)
        lengths = np.diff(batch(source, first, 4).cu_seqlens())
        pairs = int((lengths * (lengths + 1) // 2).sum())
        whole = training_flops(count(config, 32), config, recorded["active_experts"], mtp=False)
        fewer = 3 * 2 * config.num_layers * 2 * width * (4 * 32 * 33 // 2 - pairs)
        expected = (whole * 128 - fewer) / line["seconds"] / opening["peak_flops"]
        assert line["mfu"] == pytest.approx(expected, rel=1e-9)
        assert recorded["epoch"] == pytest.approx((first + 4) / source.windows_per_epoch)


def test_micro_batches_equal_the_whole_batch(run_apart: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    # A small step from the same start: differences come only from summation order.
    # The balance loss is computed per micro batch, so it is disabled.
    config = tiny | {"steps": 3, "optimizer": {"eps": 1e-6}, "balance_loss": {"enabled": False}}
    whole = run_apart("train", config, {"tokens": tokens})
    parts = run_apart("train", config | {"micro_batch_size": 1}, {"tokens": tokens})
    uneven = run_apart("train", config | {"micro_batch_size": 3}, {"tokens": tokens})
    expected = load_file(whole.file("model.safetensors"))
    for other in (parts, uneven):
        found = load_file(other.file("model.safetensors"))
        for name, tensor in expected.items():
            torch.testing.assert_close(
                found[name], tensor, rtol=1e-4, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}"
            )
        for a, b in zip(*(read_metrics(run.file("metrics.jsonl")) for run in (whole, other)), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
            assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)
            assert b["active_experts"] == pytest.approx(a["active_experts"], rel=1e-2)


def test_two_runs_give_the_same_bytes(
    store: Any, run_stage: Any, tokens: Artifact, tiny: dict[str, Any], contents: Contents
) -> None:
    first = run_stage("train", tiny, {"tokens": tokens})
    expected = contents(first)
    store.remove(first)
    assert contents(run_stage("train", tiny, {"tokens": tokens})) == expected


def test_bfloat16_keeps_float32_weights(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    config = tiny | {"micro_batch_size": 2, "learning_rate": 1e-3}
    exact = run_stage("train", config, {"tokens": tokens})
    coarse = run_stage("train", config | {"dtype": "bfloat16"}, {"tokens": tokens})
    tensors = load_file(coarse.file("model.safetensors"))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    embedding = tensors["model.embed_tokens.weight"]
    assert not torch.equal(embedding, embedding.bfloat16().float())
    assert coarse.manifest.metrics["train_loss"] == pytest.approx(exact.manifest.metrics["train_loss"], rel=5e-3)
    for run in (exact, coarse):
        assert run.manifest.performance["estimated_memory_bytes"] > 0
        assert run.manifest.performance["peak_memory_bytes"] > 0


def test_continuing_equals_an_uninterrupted_run(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    """Two runs with one schedule give the same result as one long run."""
    # An automatic coefficient is measured again after the join.
    schedule: dict[str, Any] = {"schedule": {"total_steps": 10, "warmup_steps": 2}}
    schedule["balance_loss"] = {"coefficient": 0.01}
    whole = run_stage("train", tiny | schedule | {"steps": 10}, {"tokens": tokens})
    first = run_stage("train", tiny | schedule | {"steps": 6}, {"tokens": tokens})
    onward = {key: value for key, value in tiny.items() if key != "preset"}
    second = run_stage("train", onward | schedule | {"steps": 4}, {"tokens": tokens, "checkpoint": first})
    assert second.file("model.safetensors").read_bytes() == whole.file("model.safetensors").read_bytes()
    assert read_state(second).model_dump(exclude={"config"}) == read_state(whole).model_dump(exclude={"config"})
    both = [line for run in (first, second) for line in read_metrics(run.file("metrics.jsonl"))]
    alone = read_metrics(whole.file("metrics.jsonl"))
    assert [line["loss"] for line in both] == [line["loss"] for line in alone]
    assert second.manifest.counts["total_steps"] == 10


def test_a_restarted_schedule_and_fresh_moments(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    first = run_stage("train", tiny, {"tokens": tokens})
    onward = {key: value for key, value in tiny.items() if key != "preset"}
    onward |= {"schedule": {"on_join": "restart", "warmup_steps": 4}, "optimizer": {"state": "reset"}, "steps": 4}
    second = run_stage("train", onward, {"tokens": tokens, "checkpoint": first})
    assert [line["learning_rate"] for line in read_metrics(second.file("metrics.jsonl"))] == pytest.approx(
        [3e-3 * quarter / 4 for quarter in (1, 2, 3, 4)]
    )
    assert {float(tensor) for name, tensor in read_start(second).moments.items() if name.endswith(".step")} == {4.0}
    assert (read_state(second).step, read_state(second).schedule_position) == (12, 4)


def test_other_data_starts_at_its_first_sample(
    run_stage: Any, tokens: Artifact, make_tokens: Any, tiny: dict[str, Any]
) -> None:
    first = run_stage("train", tiny, {"tokens": tokens})
    other = make_tokens([80] * 50, seed=1, identifier="70ce500000000002")
    onward = {key: value for key, value in tiny.items() if key != "preset"} | {"steps": 2}
    for given, position in ((tokens, 40), (other, 8)):
        data = read_state(run_stage("train", onward, {"tokens": given, "checkpoint": first})).data
        assert data is not None
        assert data.position == position


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_silent_nan(
    what: str, run_stage: Any, tokens: Artifact, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from longcat.stages.train import gradients

    original = gradients.BatchGradients.take

    def poisoned(self: Any, rows: Any, step: int) -> Any:
        taken = original(self, rows, step)
        if step == 5:
            if what == "loss":
                return replace(taken, figures=taken.figures | {"loss": math.nan})
            next(self.held.model.parameters()).grad.fill_(math.inf)
        return taken

    monkeypatch.setattr(gradients.BatchGradients, "take", poisoned)
    with pytest.raises(LongcatError) as caught:
        run_stage("train", tiny | {"stability": {"spikes": {"action": "none"}}}, {"tokens": tokens})
    subject = "the loss is nan" if what == "loss" else "the gradient norm is (inf|nan)"
    assert caught.match(rf"{subject} at step 5; the last finite loss was [34]\.\d+ at step 4")
    assert "learning_rate" in str(caught.value.hint)


def test_divergence_by_a_high_learning_rate_is_an_error(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    config = tiny | {"steps": 100, "learning_rate": 1e18, "optimizer": {"weight_decay": 0}}
    with pytest.raises(LongcatError, match=r"the run has diverged: .* the loss is (nan|inf), and no save is older"):
        run_stage("train", config, {"tokens": tokens})
    config["stability"] = {"spikes": {"action": "none"}}
    with pytest.raises(LongcatError, match=r"is (nan|inf) at step \d+"):
        run_stage("train", config, {"tokens": tokens})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"preset": None}, ConfigError, "preset is missing"),
        ({"preset": "huge"}, ConfigError, "no preset 'huge'"),
        ({"token_budget": 100}, ConfigError, "either steps or token_budget"),
        ({"steps": None}, ConfigError, "either steps or token_budget"),
        ({"model": {"num_layer": 2}}, ConfigError, "num_layer"),
        ({"model": {"vocab_size": 10}}, ConfigError, "vocab_size = 10, but the tokenizer has 61"),
        ({"sequence_length": 600}, ConfigError, "exceeds the model's max_position_embeddings = 512"),
        ({"balance": {"target_active_experts": 5}}, ConfigError, "out of reach"),
        ({"min_document_tokens": 1000}, InputError, "no document has 1000 tokens or more"),
        ({"schedule": {"kind": "linear"}}, ConfigError, "schedule.kind"),
    ],
)
def test_bad_configurations(
    changes: dict[str, Any],
    error: type[LongcatError],
    message: str,
    run_stage: Any,
    tokens: Artifact,
    tiny: dict[str, Any],
) -> None:
    with pytest.raises(error, match=message):
        run_stage("train", tiny | changes, {"tokens": tokens})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_without_a_gpu(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        run_stage("train", tiny | {"device": "cuda"}, {"tokens": tokens})


def test_a_checkpoint_of_another_tokenizer(
    run_stage: Any, tokens: Artifact, make_tokens: Any, tiny: dict[str, Any]
) -> None:
    first = run_stage("train", tiny, {"tokens": tokens})
    other = make_tokens([80] * 50, identifier="70ce500000000003", words=62)
    onward = {key: value for key, value in tiny.items() if key != "preset"}
    with pytest.raises(InputError, match="another tokenizer"):
        run_stage("train", onward, {"tokens": other, "checkpoint": first})
    (first.path / "tokenizer.json").unlink()
    many = make_tokens([80] * 50, identifier="70ce500000000004", words=65)
    with pytest.raises(InputError, match="have 65 ids, the checkpoint has vocab_size = 64"):
        check_same_tokenizer(first, many)


def test_a_preset_together_with_a_checkpoint(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    first = run_stage("train", tiny, {"tokens": tokens})
    with pytest.raises(ConfigError, match="are for a new model"):
        run_stage("train", tiny, {"tokens": tokens, "checkpoint": first})


def test_the_state_of_the_process_is_restored(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    run_stage("train", tiny | {"steps": 1}, {"tokens": tokens})
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1
    assert torch.tensor([1e-40]).mul(1.0).item() != 0


def test_budget_in_tokens(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    trained = run_stage("train", tiny | {"steps": None, "token_budget": 129}, {"tokens": tokens})
    assert trained.manifest.counts["steps"] == 2


def test_registering_the_stages_does_not_import_torch() -> None:
    code = (
        "import sys, longcat.stages.train, longcat.stages.grow, longcat.stages.extend\nsys.exit('torch' in sys.modules)"
    )
    child = subprocess.run([sys.executable, "-P", "-c", code], check=False)
    assert child.returncode == 0
