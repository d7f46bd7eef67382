"""The figures of the `stability` object."""

from __future__ import annotations

import math
from collections.abc import Callable

import orjson
import pytest
import torch
from torch import nn

from model.transformer import LongcatFlash
from stages.train.stability.measure import (
    due,
    group_of,
    largest_activations,
    rms_by_group,
    router_cosine,
    stability_record,
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
        with largest_activations(list(model.model.layers)) as largest_L:
            for rows_BT in ids.split(1):
                model.loss(rows_BT, rows_BT)
        before = largest_L.tolist()
        model.model.embed_tokens.weight.mul_(100)
        model.loss(ids, ids)
    assert before[-1] == max(residual)
    assert all(value > 0 for value in before)
    assert largest_L.tolist() == before  # no hook is left


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
def test_every_layer_is_in_the_group_that_names_it(layers: int, layer_groups: int) -> None:
    for layer in range(layers):
        bounds = group_of(f"model.layers.{layer}.mlps.0.x", layers, layer_groups).split(".")[1].split("-")
        assert int(bounds[0]) <= layer <= int(bounds[-1])


def test_every_parameter_has_a_group(build_model: BuildModel) -> None:
    model = build_model(num_nextn_predict_layers=1, zero_expert_type="constant", gating_residual=True)
    groups = {group_of(name, 3, 1) for name, _ in model.named_parameters()}
    layered = {f"layers.0-2.{kind}" for kind in ("attention", "dense_ffn", "experts", "router", "norms")}
    assert groups == {"embedding", "head", "norms", "mtp"} | layered


def test_rms_adds_up_over_tensors_and_devices() -> None:
    pairs = [("a", torch.tensor([3.0, 4.0])), ("b", torch.full((2, 2), 2.0)), ("a", torch.tensor([5.0]))]
    assert rms_by_group(pairs) == pytest.approx({"a": math.sqrt(50 / 3), "b": 2.0})
    # A second device that holds 0 and 6 of `a`, and `b` as well.
    other_G2 = torch.tensor([[36.0, 2.0], [16.0, 4.0]], dtype=torch.float64)
    assert rms_by_group(pairs, lambda both: both + other_G2) == pytest.approx({"a": math.sqrt(86 / 5), "b": 2.0})
    assert rms_by_group([]) == {}


def test_the_record_of_a_step(build_model: BuildModel, ids: torch.Tensor) -> None:
    model = build_model(num_nextn_predict_layers=1)
    with largest_activations(list(model.model.layers)) as largest_L:
        loss_sum, _, _ = model.loss(ids[:, :-1], ids[:, 1:])
        loss_sum.backward()
    record = stability_record(model, model.routers(), [0.1, 0.2, 0.3], largest_L, layer_groups=1)
    assert set(record) == {
        *("balance_gradient_ratio", "router_cosine", "largest_activation", "gradient_rms", "parameter_rms")
    }
    assert orjson.loads(orjson.dumps(record)) == record
    expert_grads = [p.grad for name, p in model.named_parameters() if ".experts." in name]
    values = torch.cat([gradient.flatten() for gradient in expert_grads if gradient is not None])
    assert record["gradient_rms"]["layers.0-2.experts"] == pytest.approx(float(values.square().mean().sqrt()))
    assert record["gradient_rms"]["mtp"] == 0.0  # took no part in this loss
    assert record["parameter_rms"]["norms"] == pytest.approx(1.0)
    assert len(record["router_cosine"]) == len(record["largest_activation"]) == 3


def test_due() -> None:
    assert [done for done in range(7) if due(3, done)] == [0, 3, 6]
    assert not due(0, 0)
