"""Transfer of hyperparameters from a narrow model to a wide one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longcat.cli.app import run
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.model.width import WIDTHS, widened
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.store import Store
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state
from longcat.stages.train.config import OptimizerOptions, TrainConfig
from longcat.stages.train.optim.adamw import build_optimizer, load_moments, moments, set_learning_rate
from longcat.stages.train.optim.kinds import factors
from longcat.stages.train.optim.transfer import read_proxy, transfer

FOUND = {
    "learning_rate": 5e-3,
    "model": {"initializer_range": 0.04},
    "optimizer": {"beta2": 0.9, "weight_decay": 0.05},
    "balance": {"mu": 0.5},
    "schedule": {"kind": "cosine"},
}
WIDE = {name: getattr(widened(load_preset("smoke"), 4), name) for name in WIDTHS}


@pytest.fixture
def proxy(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> Artifact:
    return run_stage("train", tiny | FOUND, {"tokens": tokens})


@pytest.fixture
def wide(tiny: dict[str, Any]) -> dict[str, Any]:
    """Configuration of a model four times as wide, without the values taken from a proxy."""
    del tiny["learning_rate"]
    return tiny | {"model": dict(WIDE)}


def test_the_published_table() -> None:
    table = factors(8)
    assert (table["embedding"].std, table["embedding"].learning_rate) == (1, 1)
    for kind in ("hidden", "router", "unembedding"):
        assert (table[kind].std ** 2, table[kind].learning_rate) == pytest.approx((1 / 8, 1 / 8))


def test_learning_rates_and_decay_by_group() -> None:
    """One step with the same gradients changes a hidden matrix by a quarter, and an embedding by the full step."""

    def step(scale: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = LongcatFlash(load_preset("smoke"))
        for parameter in model.parameters():
            parameter.data.fill_(1.0)
            parameter.grad = torch.randn(parameter.shape)
        optimizer = build_optimizer(model, OptimizerOptions(weight_decay=0.3), scale=scale)
        set_learning_rate(optimizer, 0.25)
        optimizer.step()
        return {name: 1 - parameter.detach() for name, parameter in model.named_parameters()}

    plain, scaled = step(1), step(4)
    for name, moved in plain.items():
        unchanged = "norm" in name or "embed_tokens" in name
        torch.testing.assert_close(scaled[name], moved * (1 if unchanged else 0.25), rtol=1e-4, atol=1e-6)
        # The first step of AdamW is the learning rate times the sign; the rest is weight decay.
        assert moved.abs().max().item() == pytest.approx(0.25 if "norm" in name else 0.25 * 1.3, rel=1e-4)


@pytest.mark.parametrize(("rule", "factor"), [("rms", 4**-0.5), ("spectral", 1.0)])
def test_learning_rates_of_muon(rule: Any, factor: float) -> None:
    """The largest singular value of a change is the same at four times the width."""
    sizes = {}
    for scale in (1, 4):
        model = LongcatFlash(widened(load_preset("smoke"), scale))
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.data.fill_(1.0)
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        options = OptimizerOptions(kind="muon", muon={"scale": rule}, weight_decay=0)
        optimizer = build_optimizer(model, options, scale=scale)
        rates = {group["kind"]: group["factor"] for group in optimizer.param_groups}
        own = {"hidden": factor if scale > 1 else 1.0}
        assert rates == {"embedding": 1, "vector": 1, "router": 1 / scale, "unembedding": 1 / scale, **own}
        set_learning_rate(optimizer, 0.25)
        optimizer.step()
        changes = {name: 1 - parameter.detach() for name, parameter in model.named_parameters() if "mlps" in name}
        sizes[scale] = {name: torch.linalg.matrix_norm(change, ord=2) for name, change in changes.items()}
    for name, size in sizes[1].items():
        assert sizes[4][name].item() == pytest.approx(size.item(), rel=0.15), name


def test_muon_is_transferred(run_stage: Any, tokens: Artifact, tiny: dict[str, Any], wide: dict[str, Any]) -> None:
    optimizer = {"kind": "muon", "muon": {"momentum": 0.9}, "cautious_decay": True}
    proxy = run_stage("train", tiny | {"learning_rate": 3e-3, "optimizer": optimizer}, {"tokens": tokens})
    trained = run_stage("train", wide | {"steps": 2}, {"tokens": tokens, "proxy": proxy})
    found = read_state(trained).config["optimizer"]
    assert (found["kind"], found["muon"]["momentum"], found["cautious_decay"]) == ("muon", 0.9, True)
    rows = {row["kind"]: row for row in trained.manifest.metrics["by_kind"]}
    assert rows["hidden"]["learning_rate"] == pytest.approx(3e-3 / 2)
    assert rows["router"]["learning_rate"] == pytest.approx(3e-3 / 4)
    own = wide | {"steps": 2, "keep_own": ["optimizer.kind"]}
    assert (
        read_state(run_stage("train", own, {"tokens": tokens, "proxy": proxy})).config["optimizer"]["kind"] == "adamw"
    )
    heads = wide | {"steps": 2, "optimizer": {"kind": "muon", "muon": {"per_head": True}}}
    with pytest.raises(ConfigError, match=r"per_head = true: .* 4 times as wide"):
        run_stage("train", heads, {"tokens": tokens, "proxy": proxy})


def test_a_proxy_of_an_earlier_version_was_trained_with_adamw(proxy: Artifact) -> None:
    old = read_proxy(proxy)
    for key in ("kind", "muon", "cautious_decay"):
        del old.config["optimizer"][key]
    assert transfer(TrainConfig(steps=1), widened(load_preset("smoke"), 4), old).config.optimizer.kind == "adamw"


def test_moments_do_not_depend_on_the_groups() -> None:
    model = LongcatFlash(load_preset("smoke"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    first = build_optimizer(model, OptimizerOptions())
    first.step()
    second = build_optimizer(model, OptimizerOptions(weight_decay=0), scale=2)
    load_moments(model, second, moments(model, first))
    for name, tensor in moments(model, first).items():
        assert torch.equal(moments(model, second)[name], tensor)


def test_missing_values_are_taken_from_the_proxy_and_scaled(
    run_stage: Any, tokens: Artifact, proxy: Artifact, wide: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trained = run_stage("train", wide | {"balance": {"mu": 0.25}}, {"tokens": tokens, "proxy": proxy})
    state = read_state(trained)
    assert state.width_scale == 4
    config = state.config
    assert (config["learning_rate"], config["model"]["initializer_range"]) == (5e-3, 0.04)
    assert (config["optimizer"]["beta2"], config["optimizer"]["weight_decay"]) == (0.9, 0.05)
    assert (config["schedule"]["kind"], config["balance"]["mu"]) == ("cosine", 0.25)
    assert read_metrics(trained.file("metrics.jsonl"))[0]["balance_gain"] == 0.25
    rows = {row["kind"]: row for row in trained.manifest.metrics["by_kind"]}
    assert (rows["hidden"]["initial_std"], rows["hidden"]["learning_rate"]) == pytest.approx((0.02, 1.25e-3))
    assert (rows["embedding"]["initial_std"], rows["embedding"]["learning_rate"]) == pytest.approx((0.04, 5e-3))
    assert trained.manifest.metrics["transfer"]["proxy"] == proxy.id
    assert "balance.mu" not in trained.manifest.metrics["transfer"]
    assert f"transfer from {proxy.id}, 4 times as wide" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_initial_weights_follow_the_table(
    run_stage: Any, tokens: Artifact, proxy: Artifact, wide: dict[str, Any]
) -> None:
    """With a tiny learning rate the checkpoint has the initial weights."""
    still = wide | {"learning_rate": 1e-12, "steps": 1}
    trained = run_stage("train", still, {"tokens": tokens, "proxy": proxy})
    weights = load_file(trained.file("model.safetensors"))
    assert weights["model.embed_tokens.weight"].std().item() == pytest.approx(0.04, rel=0.03)
    assert weights["lm_head.weight"].std().item() == pytest.approx(0.02, rel=0.03)
    assert weights["model.layers.0.mlp.experts.1.up_proj.weight"].std().item() == pytest.approx(0.02, rel=0.03)


def test_keep_own_keeps_a_default(run_stage: Any, tokens: Artifact, proxy: Artifact, wide: dict[str, Any]) -> None:
    own = {"keep_own": ["learning_rate", "model.initializer_range"]}
    config = read_state(run_stage("train", wide | own, {"tokens": tokens, "proxy": proxy})).config
    assert (config["learning_rate"], config["model"]["initializer_range"]) == (1e-3, 0.02)
    assert config["optimizer"]["beta2"] == 0.9
    with pytest.raises(ConfigError, match="keep_own: 'steps' is not transferred from a proxy"):
        run_stage("train", wide | {"keep_own": ["steps"]}, {"tokens": tokens, "proxy": proxy})


def test_continuing_keeps_learning_rates_by_group(
    run_stage: Any, tokens: Artifact, proxy: Artifact, wide: dict[str, Any]
) -> None:
    """Two runs equal one, though the second has no proxy; and factors of a proxy of a proxy multiply."""
    # An automatic coefficient is determined again at a join.
    wide["balance_loss"] = {"coefficient": 1e-3}
    whole = run_stage("train", wide | {"schedule": {"total_steps": 8}}, {"tokens": tokens, "proxy": proxy})
    first = run_stage("train", wide | {"schedule": {"total_steps": 8}, "steps": 5}, {"tokens": tokens, "proxy": proxy})
    onward = read_state(whole).config | {"preset": None, "model": {}, "steps": 3}
    second = run_stage("train", onward, {"tokens": tokens, "checkpoint": first})
    assert second.file("model.safetensors").read_bytes() == whole.file("model.safetensors").read_bytes()
    assert read_state(second).width_scale == 4
    again = run_stage("train", wide | {"steps": 1}, {"tokens": tokens, "proxy": second})
    assert read_state(again).width_scale == 4


def test_other_differences_are_notes(
    run_stage: Any, tokens: Artifact, proxy: Artifact, wide: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"num_layers": 2, "zero_expert_num": 3, "kv_lora_rank": 32}
    config = wide | {"steps": 1, "batch_size": 2, "model": WIDE | changes}
    run_stage("train", config, {"tokens": tokens, "proxy": proxy})
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [
        "transfer: num_layers is 2, the proxy's is 1; only the width may differ",
        "transfer: zero_expert_num is 3, the proxy's is 2; only the width may differ",
        "transfer: kv_lora_rank is 2 times the proxy's, hidden_size 4 times",
        "transfer: the batch is 64 tokens, the proxy's is 128",
    ]


def test_invalid_proxies(run_stage: Any, tokens: Artifact, proxy: Artifact, wide: dict[str, Any]) -> None:
    onward = wide | {"preset": None, "model": {}}
    with pytest.raises(InputError, match="a proxy is for a new model"):
        run_stage("train", onward, {"tokens": tokens, "proxy": proxy, "checkpoint": proxy})
    model = widened(load_preset("smoke"), 4)
    old = read_proxy(proxy).model_copy(update={"config": {"learning_rate": 1e-3}})
    with pytest.raises(ConfigError, match=r"was trained without optimizer.beta1"):
        transfer(TrainConfig(steps=1), model, old)


def test_the_command_keeps_given_values_that_equal_the_default(
    store: Store, tokens: Artifact, proxy: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> dict[str, Any]:
        given = ["--tokens", tokens.id, "--preset", "smoke", "--steps", "1", "--threads", "1", *arguments]
        assert run(["--store", str(store.root), "--quiet", "train", *given, "--json"]) == 0
        result: dict[str, Any] = json.loads(capfd.readouterr().out)
        return result

    taken = command("--transfer-from", proxy.id)
    kept = command("--transfer-from", proxy.id, "--learning-rate", "1e-3", "--set", "optimizer.beta2=0.95")
    assert taken["metrics"]["transfer"]["learning_rate"] == 5e-3
    assert not {"learning_rate", "optimizer.beta2"} & set(kept["metrics"]["transfer"])
    assert kept["metrics"]["by_kind"][0]["learning_rate"] == 1e-3
    # Without a proxy, giving a default explicitly has no effect.
    assert command("--learning-rate", "1e-3")["id"] == command()["id"]
