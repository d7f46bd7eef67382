"""Values of the `stability` object."""

from __future__ import annotations

import math
from collections.abc import Callable

import orjson
import pytest
import torch
from torch import nn

from longcat.model.transformer import LongcatFlash
from longcat.stages.train.stability.measure import (
    all_groups,
    due,
    group_of,
    largest_activations,
    layer_figures,
    parameter_figures,
    rms_by_group,
    router_cosine,
)

BuildModel = Callable[..., LongcatFlash]


def test_cosine_is_the_mean_over_pairs_of_rows() -> None:
    weight_ED = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)) + 0.5
    pairs = [
        float(nn.functional.cosine_similarity(weight_ED[i].double(), weight_ED[j].double(), dim=0))
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert router_cosine(weight_ED) == pytest.approx(sum(pairs) / len(pairs), rel=1e-9)
    assert router_cosine(torch.ones(3, 4)) == pytest.approx(1.0)
    assert router_cosine(torch.ones(1, 4)) == 0.0


def test_largest_activations_over_all_micro_batches(build_model: BuildModel, ids: torch.Tensor) -> None:
    model = build_model()
    with torch.no_grad():
        residual = [float(model.loss(rows_BT, rows_BT)[2].residual_BTD.abs().max()) for rows_BT in ids.split(1)]
        with largest_activations(dict(enumerate(model.model.layers))) as largest:
            for rows_BT in ids.split(1):
                model.loss(rows_BT, rows_BT)
        before = [largest[layer].item() for layer in range(3)]
        model.model.embed_tokens.weight.mul_(100)
        model.loss(ids, ids)
    assert before[-1] == max(residual)
    assert all(value > 0 for value in before)
    assert [largest[layer].item() for layer in range(3)] == before  # no hook remains


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "norms"),
        ("model.mtp.layers.0.self_attn.q_a_proj.weight", "mtp"),
        ("model.mtp.embed_tokens.weight", "mtp"),
        ("model.layers.0.self_attn.1.kv_a_proj_with_mqa.weight", "layers.0-1.attention"),
        ("model.layers.1.self_attn.0.q_a_layernorm.weight", "layers.0-1.norms"),
        ("model.layers.2.mlp.router.classifier.weight", "layers.2-3.router"),
        ("model.layers.3.mlp.experts.gate_up_proj", "layers.2-3.experts"),
        ("model.layers.4.mlp.zero_experts.constant.vectors", "layers.4.experts"),
        ("model.layers.4.mlps.1.down_proj.weight", "layers.4.dense_ffn"),
        ("model.layers.4.input_layernorm.0.weight", "layers.4.norms"),
    ],
)
def test_groups_of_five_layers_in_three(name: str, group: str) -> None:
    assert group_of(name, layers=5, layer_groups=3) == group


@pytest.mark.parametrize(("layers", "layer_groups"), [(1, 4), (28, 4), (7, 3), (3, 3)])
def test_every_layer_is_in_its_named_group(layers: int, layer_groups: int) -> None:
    for layer in range(layers):
        bounds = group_of(f"model.layers.{layer}.mlps.0.x", layers, layer_groups).split(".")[1].split("-")
        assert int(bounds[0]) <= layer <= int(bounds[-1])


def test_every_parameter_has_a_group(build_model: BuildModel) -> None:
    model = build_model(num_nextn_predict_layers=1, zero_expert_type="constant", gating_residual=True)
    groups = {group_of(name, 3, 1) for name, _ in model.named_parameters()}
    layered = {f"layers.0-2.{kind}" for kind in ("attention", "dense_ffn", "experts", "router", "norms")}
    assert groups == {"embedding", "head", "norms", "mtp"} | layered
    assert groups < set(all_groups(3, 1))


def test_rms_adds_up_over_tensors_and_devices() -> None:
    groups = ["a", "b", "c"]
    pairs = [("a", torch.tensor([3.0, 4.0])), ("b", torch.full((2, 2), 2.0)), ("a", torch.tensor([5.0]))]
    assert rms_by_group(pairs, groups) == pytest.approx({"a": math.sqrt(50 / 3), "b": 2.0})
    # A second device that has 0 and 6 of `a`, the same `b`, and all of `c`.
    other_G2 = torch.tensor([[36.0, 2.0], [16.0, 4.0], [9.0, 1.0]], dtype=torch.float64)
    expected = {"a": math.sqrt(86 / 5), "b": 2.0, "c": 3.0}
    assert rms_by_group(pairs, groups, lambda both_G2: both_G2 + other_G2) == pytest.approx(expected)
    assert rms_by_group([], groups) == {}


def test_sizes_of_a_model(build_model: BuildModel, ids: torch.Tensor) -> None:
    model = build_model(num_nextn_predict_layers=1)
    loss_sum, _, _ = model.loss(ids[:, :-1], ids[:, 1:])
    loss_sum.backward()
    figures = parameter_figures(model, 3, 1)
    assert orjson.loads(orjson.dumps(figures)) == figures
    expert_grads = [p.grad for name, p in model.named_parameters() if ".experts." in name]
    values = torch.cat([gradient.flatten() for gradient in expert_grads if gradient is not None])
    assert figures["gradient_rms"]["layers.0-2.experts"] == pytest.approx(float(values.square().mean().sqrt()))
    assert figures["gradient_rms"]["mtp"] == 0.0  # took no part in this loss
    assert figures["parameter_rms"]["norms"] == pytest.approx(1.0)


def test_layers_spread_over_devices(build_model: BuildModel) -> None:
    routers = dict(enumerate(build_model().routers()))
    largest = {layer: torch.tensor(float(layer + 1)) for layer in range(3)}
    whole = layer_figures(routers, largest, 3)
    assert whole["largest_activation"] == [1.0, 2.0, 3.0]
    assert whole["router_cosine"] == [router_cosine(router.classifier.weight) for router in routers.values()]
    seen: list[torch.Tensor] = []
    layer_figures({0: routers[0]}, largest, 3, lambda both_2L: seen.append(both_2L) or both_2L)
    rest = {layer: routers[layer] for layer in (1, 2)}
    assert layer_figures(rest, largest, 3, lambda both_2L: torch.maximum(both_2L, seen[0])) == whole


def test_due() -> None:
    assert [done for done in range(7) if due(3, done)] == [0, 3, 6]
    assert not due(0, 0)
