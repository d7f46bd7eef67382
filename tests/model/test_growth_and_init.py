"""Growth in depth, and initial values."""

from collections.abc import Callable

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError
from longcat.model.growth import layer_mapping, stack_layers, stack_state
from longcat.model.init import initialize
from longcat.model.layout import published_tensors
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]


def test_layers_repeat_in_order() -> None:
    assert layer_mapping(3, 2) == [0, 1, 2, 0, 1, 2]
    assert layer_mapping(14, 2) == [*range(14), *range(14)]
    with pytest.raises(ModelError, match="factor = 0"):
        layer_mapping(3, 0)


def test_growing_by_one_is_the_identity(build_model: BuildModel) -> None:
    model = build_model()
    grown = stack_layers(model, 1)
    assert grown.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, grown.state_dict()[name])
    input_ids_BT = torch.arange(12).view(2, 6)
    assert torch.equal(grown(input_ids_BT).logits, model(input_ids_BT).logits)


def test_a_grown_model_repeats_the_small_one(build_model: BuildModel) -> None:
    model = build_model()
    grown = stack_layers(model, 2)
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
    stacked = stack_state(moments, num_layers=2, factor=3)
    assert stacked.keys() == {f"{name}.exp_avg" for name, _ in stack_layers(model, 3).named_parameters()}
    name = "mlps.0.up_proj.weight.exp_avg"
    assert torch.equal(stacked[f"model.layers.5.{name}"], moments[f"model.layers.1.{name}"])
    assert torch.equal(stacked["lm_head.weight.exp_avg"], moments["lm_head.weight.exp_avg"])
    with pytest.raises(ModelError, match="model of 1 layers has no layer 1"):
        stack_state(moments, num_layers=1, factor=2)


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
