"""Weight rescaling: the same model with other weights, as part of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from longcat.model import mixers
from longcat.model.attention.base import SequenceMixer
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.stages.formats.checkpoint import read_model, read_start
from longcat.stages.train import trainer
from longcat.stages.train.config import MuonOptions, OptimizerOptions, WeightRescalingOptions
from longcat.stages.train.optim.adamw import build_optimizer, moments, set_learning_rate
from longcat.stages.train.optim.average import WeightAverage
from longcat.stages.train.optim.weight_rescaling import WeightRescaling
from longcat.stages.train.parallel.build import whole
from tests.stages.train.test_parallel_train import OPTIONS, assert_close, sets, train

MODELS: dict[str, dict[str, Any]] = {
    "published": {},
    "unscaled latents": {"mla_scale_q_lora": False, "mla_scale_kv_lora": False},
    "unscaled queries": {"mla_scale_q_lora": False},
    "no query latent": {"q_lora_rank": None, "num_nextn_predict_layers": 1},
    "multi-token prediction": {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True},
    "yarn": {
        "rope_scaling": {
            **{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
            **{"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
        }
    },
    "interleaved": {"moe_layout": "interleaved"},
    "span": {"moe_layout": "span"},
}
IDS_BT = torch.arange(4, 44).view(2, 20)


@pytest.fixture
def config() -> ModelConfig:
    """All widths differ, so that mistaking one for another is an error."""
    widths = {"num_attention_heads": 3, "q_lora_rank": 20, "kv_lora_rank": 16, "v_head_dim": 8}
    more = {"qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "num_layers": 2}
    return ModelConfig(**(load_preset("smoke").model_dump() | widths | more))


@pytest.fixture
def built(config: ModelConfig) -> Callable[..., LongcatFlash]:
    """Model in float64 whose matrices have very different sizes, also from head to head."""

    def build(**changes: Any) -> LongcatFlash:
        model = LongcatFlash(ModelConfig.from_dict(config.to_dict() | changes))
        initialize(model, 3, {"hidden": 0.2, "embedding": 1.0, "unembedding": 0.3})
        model.double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "self_attn" in name and parameter.dim() == 2:
                    parameter.mul_(0.2 + 3 * torch.rand(parameter.shape[0], 1, generator=generator))
                    parameter.mul_(0.2 + 3 * torch.rand(1, parameter.shape[1], generator=generator))
                elif "norm" in name:
                    parameter.mul_(0.5 + torch.rand(parameter.shape, generator=generator))
        return model

    return build


def hook(model: LongcatFlash, optimizer: Any = None, average: Any = None, **options: Any) -> WeightRescaling:
    held = whole(model, torch.device("cpu"), torch.float32)
    chosen = WeightRescalingOptions(**({"every": 1} | options))
    found = WeightRescaling.of(chosen, held, optimizer or build_optimizer(held, OptimizerOptions()), average)
    assert found is not None
    return found


def logits(model: LongcatFlash) -> list[torch.Tensor]:
    """Of the model and, if it has this layer, of multi-token prediction."""
    with torch.no_grad():
        output = model(IDS_BT)
        found = [output.logits]
        if model.model.mtp is not None:
            found.append(model.mtp_forward(output.hidden_BTD, IDS_BT.roll(-1, 1)).logits)
    return found


def sizes(model: LongcatFlash) -> list[list[torch.Tensor]]:
    """Sums of absolute values of both sides of every pair, by module, pair and head."""
    found = []
    for mixer in (module for module in model.modules() if isinstance(module, SequenceMixer)):
        for exchange in mixer.exchanges():
            parts = [(part, mixer.get_parameter(part.name).detach()) for part in (exchange.first, exchange.second)]
            found.append(
                [weight.abs().sum(1 - part.dim)[part.places_GX].sum(1) for part, weight in parts],
            )
    return found


@pytest.mark.parametrize("groups", ["tensor", "head"])
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS.keys())
def test_logits_stay_and_sizes_become_equal(
    changes: dict[str, Any], groups: str, built: Callable[..., LongcatFlash]
) -> None:
    model = built(**changes)
    before, weights = logits(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    uneven = sizes(model)
    assert max(float((first / second).log().abs().max()) for first, second in uneven) > 0.5
    hook(model, groups=groups).rescale()
    for old, new in zip(before, logits(model), strict=True):
        assert torch.linalg.vector_norm(new - old) < 1e-12 * torch.linalg.vector_norm(old)
    for first, second in sizes(model):
        torch.testing.assert_close(first.sum(), second.sum())
        if groups == "head":
            torch.testing.assert_close(first, second)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, weights[name])}
    kinds = (".q_b_proj.weight", ".q_proj.weight", "kv_a_proj_with_mqa.weight", "kv_b_proj.weight", "o_proj.weight")
    assert changed == {name for name in weights if "self_attn" in name and name.endswith(kinds)}


def test_the_factor_is_that_of_the_paper(built: Callable[..., LongcatFlash]) -> None:
    """W_v' = W_v sqrt(|W_o| / |W_v|), W_o' = W_o sqrt(|W_v| / |W_o|); queries and keys are left alone."""
    model = built()
    mixer = model.model.layers[1].self_attn[0]
    config = model.config
    kv = mixer.kv_b_proj.weight.detach().clone().view(config.num_attention_heads, -1, config.kv_lora_rank)
    key, value = kv.split((config.qk_nope_head_dim, config.v_head_dim), dim=1)
    output, query = mixer.o_proj.weight.detach().clone(), mixer.q_b_proj.weight.detach().clone()
    hook(model, pairs="vo").rescale()
    ratio = (output.abs().sum() / value.abs().sum()).sqrt()
    after = mixer.kv_b_proj.weight.view_as(kv)
    torch.testing.assert_close(after[:, config.qk_nope_head_dim :], value * ratio)
    torch.testing.assert_close(mixer.o_proj.weight, output / ratio)
    assert torch.equal(after[:, : config.qk_nope_head_dim], key)
    assert torch.equal(mixer.q_b_proj.weight, query)


def test_a_second_rescaling_changes_nothing(built: Callable[..., LongcatFlash]) -> None:
    model = built()
    hook(model, groups="head").rescale()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hook(model, groups="head").rescale()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=1e-13, atol=0)


def test_matrices_of_zeros_are_left_alone(built: Callable[..., LongcatFlash]) -> None:
    model = built()
    with torch.no_grad():
        model.model.layers[0].self_attn[1].o_proj.weight.zero_()
    before = logits(model)
    hook(model, groups="head").rescale()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    torch.testing.assert_close(logits(model), before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("choice", ["rescale", "keep"])
def test_moments_follow_the_gradients(choice: str, built: Callable[..., LongcatFlash]) -> None:
    """The gradient of the rescaled model is exactly the rescaled moment of one step; averages stay equal to weights."""
    model = built()
    optimizer = build_optimizer(model, OptimizerOptions(beta1=0.0, beta2=0.0, weight_decay=0.0))
    set_learning_rate(optimizer, 0.0)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model.loss(IDS_BT, IDS_BT.roll(-1, 1))[0].backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    first = gradients()
    optimizer.step()
    average = WeightAverage(model, 0.9, {})
    hook(model, optimizer, average, moments=choice, groups="head").rescale()
    expected = gradients() if choice == "rescale" else first
    state = moments(model, optimizer)
    for name, gradient in expected.items():
        torch.testing.assert_close(state[f"{name}.exp_avg"], gradient, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(state[f"{name}.exp_avg_sq"], gradient.square(), rtol=1e-9, atol=1e-12)
        assert state[f"{name}.step"] == 1
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(average.tensors()[name], parameter.detach())


def test_the_momentum_of_muon_follows_the_gradients(built: Callable[..., LongcatFlash]) -> None:
    model = built()
    options = OptimizerOptions(kind="muon", muon=MuonOptions(momentum=0.0, nesterov=False), weight_decay=0.0)
    optimizer = build_optimizer(model, options)
    set_learning_rate(optimizer, 0.0)
    model.loss(IDS_BT, IDS_BT.roll(-1, 1))[0].backward()
    optimizer.step()
    hook(model, optimizer).rescale()
    model.zero_grad()
    model.loss(IDS_BT, IDS_BT.roll(-1, 1))[0].backward()
    state, seen = moments(model, optimizer), 0
    for name, parameter in model.named_parameters():
        if "self_attn" in name and f"{name}.momentum" in state:
            torch.testing.assert_close(state[f"{name}.momentum"], parameter.grad, rtol=1e-9, atol=1e-12)
            seen += 1
    assert seen == 4 * 5


def test_it_happens_at_multiples_of_the_steps_since_initialisation(built: Callable[..., LongcatFlash]) -> None:
    calls: list[int] = []
    rescaling = hook(built(), every=4)
    rescaling.rescale = lambda: calls.append(step)  # type: ignore[method-assign]
    for step in range(1, 13):
        rescaling.after_step(SimpleNamespace(step=step))  # type: ignore[arg-type]
    step = 0
    rescaling.at_start()
    assert calls == [4, 8, 12]
    rescaling = hook(built(), every=0, at_start=True)
    rescaling.rescale = lambda: calls.append(-1)  # type: ignore[method-assign]
    rescaling.after_step(SimpleNamespace(step=0))  # type: ignore[arg-type]
    rescaling.at_start()
    assert calls == [4, 8, 12, -1]


def rescaled(options: dict[str, Any], **rescaling: Any) -> dict[str, Any]:
    return options | {"optimizer": {"average_decay": 0.5, "weight_rescaling": rescaling}}


@pytest.mark.parametrize("call", [1, 7])
def test_a_killed_run_ends_with_the_same_bits(
    call: int,
    run_stage: Any,
    tokens: Artifact,
    tiny: dict[str, Any],
    contents: Any,
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Saves at steps 3 and 6 of 8, rescaling at the start and at 4 and 8."""
    config = rescaled(tiny | {"checkpoint_every": 3}, every=4, at_start=True, groups="head")
    undisturbed = run_stage("train", config, {"tokens": tokens})
    expected = contents(undisturbed)
    store.remove(undisturbed)
    original, calls = trainer.TrainingRun.step, [0]

    def failing(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise RuntimeError("power")
        return original(*arguments)

    monkeypatch.setattr(trainer.TrainingRun, "step", failing)
    with pytest.raises(RuntimeError, match="power"):
        run_stage("train", config, {"tokens": tokens})
    assert contents(run_stage("train", config, {"tokens": tokens})) == expected


def test_the_start_is_that_of_a_new_model_only(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    """A learning rate near zero shows the initial values."""
    still = tiny | {"learning_rate": 1e-30, "steps": 2}
    plain = run_stage("train", still, {"tokens": tokens})
    config = rescaled(still, at_start=True)
    begun = read_model(run_stage("train", config, {"tokens": tokens}))
    first, second = sizes(begun)[0]
    torch.testing.assert_close(first.sum(), second.sum())
    torch.testing.assert_close(begun(IDS_BT).logits, read_model(plain)(IDS_BT).logits)
    onward = {key: value for key, value in config.items() if key not in ("preset", "model")}
    continued = run_stage("train", onward, {"tokens": tokens, "checkpoint": plain})
    first, second = sizes(read_model(continued))[0]
    assert abs(float(first.sum() / second.sum()) - 1) > 0.01


def test_half_precision_has_the_rescaled_weights(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    """The copy in bfloat16 is refreshed, so that the loss stays near that of a run without."""
    from longcat.stages.formats.metrics import read_metrics

    half = tiny | {"dtype": "bfloat16"}
    plain = read_metrics(run_stage("train", half, {"tokens": tokens}).file("metrics.jsonl"))
    again = read_metrics(run_stage("train", rescaled(half, every=1), {"tokens": tokens}).file("metrics.jsonl"))
    assert again[0]["loss"] == plain[0]["loss"]
    assert all(abs(one["loss"] - other["loss"]) < 0.1 for one, other in zip(plain, again, strict=True))


def test_a_wide_model_of_a_proxy_is_rescaled_and_told(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    proxy = run_stage("train", tiny, {"tokens": tokens})
    wide = tiny | {"model": {"hidden_size": 2 * load_preset("smoke").hidden_size}}
    with caplog.at_level(logging.WARNING):
        trained = run_stage("train", rescaled(wide, every=8), {"tokens": tokens, "proxy": proxy})
    assert "optimizer.weight_rescaling is" in caplog.text
    for first, second in sizes(read_model(trained)):
        torch.testing.assert_close(first.sum(), second.sum())
    assert read_start(trained).average.keys() == dict(read_model(trained).named_parameters()).keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": "head"}, "options are given, but nothing is rescaled; set every or at_start"),
        ({"every": -1}, "weight_rescaling.every"),
        ({"every": 1, "pairs": "kv"}, "weight_rescaling.pairs"),
        ({"each": 1}, "weight_rescaling.each"),
    ],
)
def test_wrong_options_are_named(
    options: dict[str, Any], message: str, run_stage: Any, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage("train", rescaled(tiny, **options), {"tokens": tokens})


def test_kinds_without_such_matrices_are_refused(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")
    config = rescaled(tiny, every=1) | {"model": {"attention": {"pattern": ["mla", "test_linear"]}}}
    with pytest.raises(ConfigError, match=r"optimizer\.weight_rescaling: attention 'test_linear' has no matrices"):
        run_stage("train", config, {"tokens": tokens})


def test_a_coordinate_check_refuses_it(run_stage: Any, tokens: Artifact) -> None:
    config = {"preset": "smoke", "optimizer": {"weight_rescaling": {"every": 1}}}
    with pytest.raises(ConfigError, match="weight_rescaling is for stages that train"):
        run_stage("train.coord-check", config, {"tokens": tokens})


@pytest.mark.slow
def test_several_processes_rescale_like_one(tokens: Artifact, tmp_path: Any) -> None:
    """Sharded rows, whose columns are summed over processes; and a pipeline with multi-token prediction."""
    more = ("--set", "optimizer.weight_rescaling.every=2", "--set", "optimizer.weight_rescaling.groups=head")
    options = (*OPTIONS, *more, "--set", "optimizer.weight_rescaling.at_start=true")
    one = train(tmp_path / "one", tokens, options=options)
    sharded = train(tmp_path / "two", tokens, "--nproc-per-node", "2", options=options)
    assert_close(one, sharded)
    staged = train(tmp_path / "three", tokens, "--nproc-per-node", "2", *sets(pipeline=2), options=options)
    assert_close(one, staged)
