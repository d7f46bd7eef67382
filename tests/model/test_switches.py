"""Ablations: effect of every option, and what it leaves unchanged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.model.attention.base import SequenceContext
from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError
from longcat.model.growth.layers import Growth
from longcat.model.growth.memory import grow_model
from longcat.model.layers.interleaved import InterleavedLayer
from longcat.model.moe.mixture import MixtureOfExperts
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]

MIXED = {"zero_expert_num": 4, "zero_expert_types": {"constant": 2, "identity": 1, "zero": 1}}
SWITCHES: dict[str, dict[str, Any]] = {
    "no zero experts": {"zero_expert_num": 0},
    "zero": {"zero_expert_type": "zero"},
    "constant": {"zero_expert_type": "constant"},
    "mixed": MIXED,
    "null": {"zero_expert_type": "null"},
    "gating residual": {"gating_residual": True},
    "gating residual and null": {"gating_residual": True, "zero_expert_type": "null"},
    "interleaved": {"moe_layout": "interleaved"},
    "span": {"moe_layout": "span"},
    "post, scaled twice": {"moe_layout": "post", "span_scale": "2L"},
    "all": MIXED | {"gating_residual": True, "moe_layout": "interleaved", "num_nextn_predict_layers": 1},
}
IDS_BT = torch.arange(26).view(2, 13)


def mixture_of(model: LongcatFlash) -> MixtureOfExperts:
    return model.model.layers[0].mlp


def send_all_to_zero_experts(model: LongcatFlash) -> None:
    """The selection bias decides; the weights are still the scores."""
    for bias_E in model.router_biases():
        bias_E[model.config.n_routed_experts :] = 10.0


@pytest.fixture
def copied(build_model: BuildModel) -> Callable[..., LongcatFlash]:
    """Model with a changed configuration and all matching tensors of `source`."""

    def build(source: LongcatFlash, **changes: object) -> LongcatFlash:
        model = build_model(**(source.config.model_dump() | changes))
        state = {key: value for key, value in source.state_dict().items() if key in model.state_dict()}
        model.load_state_dict(state, strict=False)
        return model

    return build


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
def test_a_switched_model_is_saved_loaded_and_grown(
    changes: dict[str, Any], build_model: BuildModel, tmp_path: Path
) -> None:
    model = build_model(**changes)
    logits = model(IDS_BT).logits
    assert logits.isfinite().all()
    save_pretrained(model, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(IDS_BT).logits, logits)
    grown = grow_model(model, Growth.of(2, 2))
    assert grown.config.num_layers == 4
    assert grown(IDS_BT).expert_counts_LE.shape == (4, model.config.num_experts)


def test_only_what_differs_from_the_published_model_is_written(config: ModelConfig) -> None:
    for changes in SWITCHES.values():
        changed = ModelConfig(**(config.model_dump() | changes))
        assert changed.to_dict() == config.to_dict() | changes
        assert ModelConfig.from_dict(changed.to_dict()) == changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_expert_type": "null", "zero_expert_num": 0}, "zero_expert_type = 'null' needs zero_expert_num of at"),
        ({"zero_expert_types": {"identity": 2}}, "must be positive counts that sum to zero_expert_num = 3"),
        ({"zero_expert_types": {"identity": 4, "zero": -1}}, "must be positive counts that sum to"),
        ({"zero_expert_types": {}}, "must be positive counts that sum to"),
        ({"zero_expert_types": {"null": 3}}, "zero_expert_types"),
        ({"zero_expert_types": {"zero": 3}, "zero_expert_type": "constant"}, "exclude each other"),
        ({"moe_layout": "parallel"}, "moe_layout = 'parallel': "),
        ({"gating_residual": 1}, "gating_residual = 1: "),
    ],
)
def test_contradictory_options_are_named(changes: dict[str, Any], message: str, config: ModelConfig) -> None:
    with pytest.raises(ModelConfigError, match=message):
        ModelConfig.from_dict(config.to_dict() | changes)


@torch.no_grad()
def test_zero_experts_return_nothing(build_model: BuildModel) -> None:
    model = build_model(zero_expert_type="zero")
    send_all_to_zero_experts(model)
    y_BTD, routing = mixture_of(model)(torch.randn(2, 3, 32))
    assert routing.counts_E.tolist() == [0, 0, 0, 0, 0, 6, 6, 6]
    assert (y_BTD == 0).all()


@torch.no_grad()
def test_tokens_without_zero_experts_equal_a_model_without_zero_experts(build_model: BuildModel) -> None:
    """Up to a factor: the weights come from a softmax over all experts, including zero experts."""
    model, without = build_model(), build_model(zero_expert_num=0)
    assert not list(mixture_of(without).zero_experts)
    x_BTD = torch.randn(2, 3, 32)
    mixture, plain = mixture_of(model), mixture_of(without)
    plain.experts.load_state_dict(mixture.experts.state_dict())
    plain.router.classifier.weight.copy_(mixture.router.classifier.weight[:5])
    plain.router.e_score_correction_bias.zero_()
    mixture.router.e_score_correction_bias.copy_(torch.tensor([0.0] * 5 + [-10.0] * 3))
    share_BT1 = (x_BTD @ mixture.router.classifier.weight.T).softmax(-1)[..., :5].sum(-1, keepdim=True)
    torch.testing.assert_close(mixture(x_BTD)[0], plain(x_BTD)[0] * share_BT1)


@torch.no_grad()
def test_constant_experts_blend_their_input_with_a_vector(build_model: BuildModel) -> None:
    model = build_model(zero_expert_type="constant", moe_topk=2)
    send_all_to_zero_experts(model)
    mixture = mixture_of(model)
    constant = mixture.zero_experts["constant"]
    x_TD = torch.randn(7, 32)
    routing, _ = mixture.router(x_TD)
    expected_TD = torch.zeros(7, 32)
    for t, (experts, weights) in enumerate(zip(routing.experts_TK.tolist(), routing.weights_TK, strict=True)):
        for expert, weight in zip(experts, weights, strict=True):
            m = expert - 5
            a = (constant.mixing.weight[2 * m : 2 * m + 2] @ x_TD[t]).softmax(-1)
            expected_TD[t] += weight * (a[0] * x_TD[t] + a[1] * constant.vectors[m])
    assert routing.experts_TK.min() >= 5
    torch.testing.assert_close(mixture(x_TD.unsqueeze(0))[0][0], expected_TD)


@torch.no_grad()
@pytest.mark.parametrize(("scale", "kind"), [(1.0, "identity"), (0.0, "zero")])
def test_constant_experts_become_the_other_kinds(
    scale: float, kind: str, build_model: BuildModel, copied: Callable[..., LongcatFlash]
) -> None:
    """Zero vectors with equal blending give half of the input; twice that is the input."""
    model = build_model(zero_expert_type="constant")
    other = copied(model, zero_expert_type=kind)
    for layer in model.model.layers:
        constant = layer.mlp.zero_experts["constant"]
        constant.vectors.zero_()
        constant.mixing.weight.zero_()
    x_BTD = torch.randn(2, 9, 32)
    send_all_to_zero_experts(model)
    send_all_to_zero_experts(other)
    blended_BTD, expected_BTD = mixture_of(model)(x_BTD)[0], mixture_of(other)(x_BTD)[0]
    torch.testing.assert_close(2 * scale * blended_BTD, expected_BTD)


@torch.no_grad()
def test_mixed_kinds_have_a_fixed_order(build_model: BuildModel) -> None:
    """Expert 5 returns nothing, 6 and 7 constants, 8 its input, whatever the order in the configuration."""
    model = build_model(**MIXED, moe_topk=1)
    mixture = mixture_of(model)
    x_BTD = torch.randn(1, 4, 32)
    scores_TE = (x_BTD[0] @ mixture.router.classifier.weight.T).softmax(-1)
    constant = mixture.zero_experts["constant"]
    for expert in range(5, 9):
        mixture.router.e_score_correction_bias.zero_()
        mixture.router.e_score_correction_bias[expert] = 10.0
        y_BTD, routing = mixture(x_BTD)
        assert routing.counts_E[expert] == 4
        if expert == 5:
            expected_TD = torch.zeros(4, 32)
        elif expert == 8:
            expected_TD = x_BTD[0]
        else:
            m = expert - 6
            a_T2 = (x_BTD[0] @ constant.mixing.weight[2 * m : 2 * m + 2].T).softmax(-1)
            expected_TD = a_T2[:, :1] * x_BTD[0] + a_T2[:, 1:] * constant.vectors[m]
        torch.testing.assert_close(y_BTD[0], 6.0 * scores_TE[:, expert : expert + 1] * expected_TD)


@torch.no_grad()
def test_null_experts_pass_their_weight_to_the_other_experts(build_model: BuildModel) -> None:
    model = build_model(zero_expert_type="null", routed_scaling_factor=2.5)
    mixture = mixture_of(model)
    x_TD = torch.randn(200, 32)
    routing, _ = mixture.router(x_TD)
    true_TK = routing.experts_TK < 5
    assert {0, 1, 2, 3} >= set(true_TK.sum(1).tolist()) >= {1, 2, 3}
    assert (routing.weights_TK[~true_TK] == 0).all()
    some_T = true_TK.any(1)
    torch.testing.assert_close(routing.weights_TK.sum(1), 2.5 * some_T.float())
    scores_TK = (x_TD @ mixture.router.classifier.weight.T).softmax(-1).gather(1, routing.experts_TK) * true_TK
    shares_TK = scores_TK[some_T] / scores_TK[some_T].sum(1, keepdim=True)
    torch.testing.assert_close(routing.weights_TK[some_T], 2.5 * shares_TK)
    send_all_to_zero_experts(model)
    y_BTD, _ = mixture(x_TD.unsqueeze(0))
    assert (y_BTD == 0).all()


def test_tokens_with_only_null_experts_have_finite_gradients(build_model: BuildModel) -> None:
    model = build_model(zero_expert_type="null")
    send_all_to_zero_experts(model)
    model.loss(IDS_BT, IDS_BT)[0].backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["identity", "null"])
def test_gating_residuals_of_zero_change_nothing(
    kind: str, build_model: BuildModel, copied: Callable[..., LongcatFlash]
) -> None:
    plain = build_model(zero_expert_type=kind)
    residual = copied(plain, gating_residual=True)
    first, second = (layer.mlp.router for layer in residual.model.layers)
    assert (first.residual.weight == 0).all()
    assert (second.residual.weight == 0).all()
    assert torch.equal(residual(IDS_BT).logits, plain(IDS_BT).logits)
    first.residual.weight.normal_()
    assert torch.equal(residual(IDS_BT).logits, plain(IDS_BT).logits)
    second.residual.weight.normal_()
    assert not torch.allclose(residual(IDS_BT).logits, plain(IDS_BT).logits, rtol=1e-2)


@torch.no_grad()
def test_gating_residuals_accumulate_the_logits_of_earlier_layers(build_model: BuildModel) -> None:
    """G_2 = W_2 x_2 + V_2 G_1, G_3 = W_3 x_3 + V_3 G_2: computed from the router inputs."""
    model = build_model(gating_residual=True, num_layers=3)
    read: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    for router in model.routers():
        router.residual.weight.normal_(std=0.3)
        router.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
        router.register_forward_hook(lambda _, __, output: logits.append(output[1]))
    model(IDS_BT)
    expected_TE = torch.zeros(26, 8)
    for router, x_TD, logits_TE in zip(model.routers(), read, logits, strict=True):
        expected_TE = x_TD @ router.classifier.weight.T + expected_TE @ router.residual.weight.T
        torch.testing.assert_close(logits_TE, expected_TE)


@torch.no_grad()
def test_the_interleaved_layer_has_no_shortcut(build_model: BuildModel) -> None:
    model = build_model(moe_layout="interleaved")
    layer: InterleavedLayer = model.model.layers[0]
    h_BTD, where = torch.randn(1, 7, 32), SequenceContext.at(torch.arange(7), [6], 1e7)
    a_BTD = h_BTD + layer.self_attn[0](layer.input_layernorm[0](h_BTD), where).y_BTD
    b_BTD = a_BTD + layer.mlps[0](layer.post_attention_layernorm[0](a_BTD))
    c_BTD = b_BTD + layer.self_attn[1](layer.input_layernorm[1](b_BTD), where).y_BTD
    y_BTD, routing = layer.mlp(layer.post_attention_layernorm[1](c_BTD))
    out_BTD, layer_routing, _ = layer(h_BTD, where)
    assert torch.equal(out_BTD, c_BTD + y_BTD)
    assert torch.equal(layer_routing.counts_E, routing.counts_E)
    assert len(layer.mlps) == 1


def test_an_interleaved_model_of_twice_the_width_has_the_parameters_of_the_published_one(config: ModelConfig) -> None:
    wide = config.model_dump() | {"moe_layout": "interleaved", "ffn_hidden_size": 2 * config.ffn_hidden_size}
    sizes = [sum(p.numel() for p in LongcatFlash(c).parameters()) for c in (config, ModelConfig(**wide))]
    assert sizes[0] == sizes[1]
