"""Growth in depth, and initial values."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError
from longcat.model.growth.layers import Growth
from longcat.model.growth.memory import grow_model, grow_tensors
from longcat.model.init import initialize
from longcat.model.layout import published_tensors
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
KEYS = ("exp_avg", "exp_avg_sq", "step")


def test_layers_repeat_in_order() -> None:
    assert Growth.of(3, 2).layers == (0, 1, 2, 0, 1, 2)
    assert Growth.of(14, 2).layers == (*range(14), *range(14))
    assert Growth.of(3, 3, "interleave").layers == (0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert Growth.of(4, 2, "stack", (1, 3)).layers == (0, 1, 2, 1, 2, 3)
    assert Growth.of(4, 3, "interleave", (2, 4)).layers == (0, 1, 2, 2, 2, 3, 3, 3)
    # Kim et al. 2023: layers 0 to 23, then 8 to 31.
    assert Growth.of(32, 2, "stack", (8, 24)).layers == (*range(24), *range(8, 32))


@pytest.mark.parametrize("order", ["stack", "interleave"])
@pytest.mark.parametrize("part", [None, (0, 3), (1, 2)])
def test_factor_one_keeps_every_layer(order: Any, part: tuple[int, int] | None) -> None:
    assert Growth.of(3, 1, order, part).layers == (0, 1, 2)


def test_a_wrong_factor_or_part_is_named() -> None:
    with pytest.raises(ModelError, match="factor = 0"):
        Growth.of(3, 0)
    for part in ((1, 1), (2, 1), (0, 4), (-1, 2), (4, 5)):
        with pytest.raises(ModelError, match=f"range = {part[0]}:{part[1]} is not a part of the 3 layers"):
            Growth.of(3, 2, "stack", part)


def test_growing_by_one_is_the_identity(build_model: BuildModel) -> None:
    model = build_model()
    grown = grow_model(model, Growth.of(2, 1))
    assert grown.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, grown.state_dict()[name])
    input_ids_BT = torch.arange(12).view(2, 6)
    assert torch.equal(grown(input_ids_BT).logits, model(input_ids_BT).logits)


def test_a_grown_model_repeats_the_small_one(build_model: BuildModel) -> None:
    model = build_model()
    grown = grow_model(model, Growth.of(2, 2))
    assert grown.config.num_layers == len(grown.model.layers) == 4
    source, target = model.state_dict(), grown.state_dict()
    for name, tensor in target.items():
        small = name.replace("layers.2.", "layers.0.").replace("layers.3.", "layers.1.")
        assert torch.equal(tensor, source[small])
        assert tensor.data_ptr() != source[small].data_ptr()
    slots = [module.slot for layer in grown.model.layers for module in layer.self_attn]
    assert slots == list(range(8))
    with torch.no_grad():
        grown.model.layers[2].mlp.experts.down_proj.zero_()
    assert grown.model.layers[0].mlp.experts.down_proj.abs().sum() > 0


def test_moments_are_renamed_like_their_parameters(build_model: BuildModel) -> None:
    model = build_model()
    moments = {f"{name}.exp_avg": torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    growth = Growth.of(2, 3)
    grown = grow_tensors(moments, growth)
    assert grown.keys() == {f"{name}.exp_avg" for name, _ in grow_model(model, growth).named_parameters()}
    name = "mlps.0.up_proj.weight.exp_avg"
    assert torch.equal(grown[f"model.layers.5.{name}"], moments[f"model.layers.1.{name}"])
    assert torch.equal(grown["lm_head.weight.exp_avg"], moments["lm_head.weight.exp_avg"])
    with pytest.raises(ModelError, match="model of 1 layers has no layer 1"):
        grow_tensors(moments, Growth.of(1, 2))


def test_moments_of_the_copies_of_a_layer_are_rescaled() -> None:
    """Layer 1 has three copies: the first moments of all sum to the source's, the second are those of a third."""
    names = [f"{part}.{key}" for part in ("model.layers.0.w", "model.layers.1.w", "lm_head.weight") for key in KEYS]
    values = {name: torch.tensor(9.0 + place) for place, name in enumerate(names)}
    grown = grow_tensors(values, Growth.of(2, 3, "stack", (1, 2)), "rescale")
    found = {name: value.item() for name, value in grown.items()}
    assert found == {
        **{"model.layers.0.w.exp_avg": 9, "model.layers.0.w.exp_avg_sq": 10, "model.layers.0.w.step": 11},
        **{"lm_head.weight.exp_avg": 15, "lm_head.weight.exp_avg_sq": 16, "lm_head.weight.step": 17},
        **{f"model.layers.{layer}.w.exp_avg": 12 / 3 for layer in (1, 2, 3)},
        **{f"model.layers.{layer}.w.exp_avg_sq": pytest.approx(13 / 9) for layer in (1, 2, 3)},
        **{f"model.layers.{layer}.w.step": 14 for layer in (1, 2, 3)},
    }


def test_what_is_outside_the_layers_is_kept_under_its_name() -> None:
    """Including tables of n-grams, whose published names no model here has yet."""
    outside = [
        "model.embed_tokens.weight",
        "model.ngram_embeddings.embedders.0.weight",
        "model.ngram_embeddings.post_projs.0.weight",
        "model.mtp.layers.0.self_attn.kv_b_proj.weight",
        "model.norm.weight",
    ]
    found = Growth.of(1, 2).names([*outside, "model.layers.0.x"])
    assert found == {name: name for name in outside} | dict.fromkeys(
        ("model.layers.0.x", "model.layers.1.x"), "model.layers.0.x"
    )


def test_a_new_model_without_values_gives_nan(config: ModelConfig) -> None:
    assert LongcatFlash(config)(torch.zeros(1, 2, dtype=torch.int64)).logits.isnan().all()


def test_initial_values_depend_only_on_seed_and_key(config: ModelConfig) -> None:
    def build(seed: int, **changes: object) -> dict[str, torch.Tensor]:
        model = LongcatFlash(ModelConfig(**(config.model_dump() | changes)))
        initialize(model, seed)
        return dict(published_tensors(model))

    first, other_seed, deeper = build(0), build(1), build(0, num_layers=3, n_routed_experts=6)
    torch.set_num_threads(2)
    again = build(0)
    for key, tensor in first.items():
        assert torch.equal(tensor, again[key])
        if ".router." not in key:  # with more experts the router is wider
            assert torch.equal(tensor, deeper[key])
        if tensor.dim() == 2:
            assert not torch.equal(tensor, other_seed[key])
            assert tensor.mean().abs() < 0.1
            assert abs(tensor.std() / 0.2 - 1) < 0.15
    assert {tuple(tensor.unique().tolist()) for tensor in first.values() if tensor.dim() == 1} == {(1.0,), (0.0,)}
    distinct = {tensor.flatten()[0].item() for tensor in first.values() if tensor.dim() == 2}
    assert len(distinct) == sum(tensor.dim() == 2 for tensor in first.values())
    with pytest.raises(ModelError, match="seed = -1"):
        build(-1)
