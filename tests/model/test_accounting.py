"""Computed sizes and costs of a model equal those of its tensors and the published ones."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from longcat.model.accounting import count, training_flops
from longcat.model.checkpoint import save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.layout import published_tensors
from longcat.model.presets import load_preset, preset_names
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]


def billions(*values: int) -> list[float]:
    return [round(value / 1e9, 2) for value in values]


def formula(config: ModelConfig) -> int:
    """Number of parameters computed by hand from the published table of the architecture."""
    c, heads = config, config.num_attention_heads
    attention = c.q_lora_rank * (c.hidden_size + heads * (c.qk_nope_head_dim + c.qk_rope_head_dim) + 1)
    attention += c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank
    attention += c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) + heads * c.v_head_dim * c.hidden_size
    layer = 2 * attention + 2 * 3 * c.hidden_size * c.ffn_hidden_size + 4 * c.hidden_size
    layer += c.hidden_size * (c.n_routed_experts + c.zero_expert_num)
    layer += c.n_routed_experts * 3 * c.hidden_size * c.expert_ffn_hidden_size
    if (index := c.sparse_index) is not None:  # one in every layer: queries, keys with their norm, weights of the heads
        layer += index.index_n_heads * index.index_head_dim * c.q_lora_rank + index.index_n_heads * c.hidden_size
        layer += index.index_head_dim * (c.hidden_size + 1)
    least = 0 if c.ngram_vocab_size_ratio is None else int(c.ngram_vocab_size_ratio * c.vocab_size)
    count = (c.emb_neighbor_num - 1) * c.emb_split_num if least else 0
    ngram = sum((least + 2 * i + 1) * (c.hidden_size // count) for i in range(count)) + bool(count) * c.hidden_size**2
    tables = 1 if c.tie_word_embeddings else 2
    return c.num_layers * layer + tables * c.vocab_size * c.hidden_size + c.hidden_size + ngram


def test_the_published_model_has_its_published_size() -> None:
    sizes = count(load_preset("longcat-flash"))
    assert sizes.total == 560_664_958_976
    assert billions(sizes.activated_min, sizes.activated_mean, sizes.activated_max) == [18.69, 27.15, 31.38]
    assert sizes.mean_ffn_experts == 8.0
    assert sizes.kv_bytes_per_token == 64_512
    assert sizes.expanded_kv_bytes_per_token == 56 * 64 * (192 + 128) * 2
    lite = count(load_preset("longcat-flash-lite"))
    assert round(lite.total / 1e7) == 6_856
    assert round((lite.total - lite.parameters["ngram"]) / 1e6) == 37_146
    # Published as 2.9 to 4.5: without the projections of the n-gram tables 2.92, 3.98, 4.51.
    assert billions(lite.activated_min, lite.activated_mean, lite.activated_max) == [2.93, 3.99, 4.52]


@pytest.mark.parametrize("name", preset_names())
def test_parts_equal_the_sizes_of_the_tensors(name: str) -> None:
    config = load_preset(name)
    with torch.device("meta"):
        model = LongcatFlash(config)
    sizes = count(config)
    named = dict(model.named_parameters())
    parts = sizes.parameters
    assert sum(parts.values()) == sum(parameter.numel() for parameter in named.values())
    assert sizes.total == sum(parts.values()) - parts["mtp"] == formula(config)
    assert parts["other"] == 0
    rest = {key: parameter for key, parameter in named.items() if ".mtp." not in key}
    for part, marker in (("experts", ".experts."), ("router", ".router."), ("dense_ffn", ".mlps.")):
        assert parts[part] == sum(parameter.numel() for key, parameter in rest.items() if marker in key)
    assert parts["indexer"] == sum(parameter.numel() for key, parameter in rest.items() if ".indexer." in key)
    vectors = {key: parameter for key, parameter in rest.items() if parameter.dim() == 1 and ".indexer." not in key}
    assert parts["norms"] == sum(parameter.numel() for parameter in vectors.values())
    assert sizes.memory.weights_fp32 == 4 * sum(tensor.numel() for _, tensor in published_tensors(model))


def test_the_presets_of_the_report_have_the_sizes_that_it_states() -> None:
    """Activated and total parameters to the digits given in the report."""
    six = count(load_preset("longcat-6b"))
    assert [round(value / 1e9, 1) for value in (six.activated_min, six.activated_max)] == [4.2, 7.0]
    assert round(six.activated_mean / 1e9) == 6
    assert six.mean_ffn_experts == 8.0
    assert round(count(load_preset("longcat-1b")).activated_mean / 1e9) == 1
    pair = count(load_preset("longcat-2.4b-16b"))
    assert (round(pair.activated_mean / 1e9, 1), round(pair.total / 1e9)) == (2.4, 16)
    small, large = load_preset("longcat-flash-14-layers"), load_preset("longcat-flash")
    same = {"num_layers": 28, "rope_theta": large.rope_theta, "max_position_embeddings": 131072}
    assert ModelConfig(**(small.model_dump() | same)) == large
    proxy = load_preset("longcat-flash-proxy")
    assert (proxy.hidden_size, proxy.num_layers, proxy.n_routed_experts) == (768, 28, 512)
    assert proxy.hidden_size / proxy.q_lora_rank == large.hidden_size / large.q_lora_rank


def test_tied_embeddings_count_once_and_longer_contexts_cost_more(config: ModelConfig) -> None:
    tied = ModelConfig(**(config.model_dump() | {"tie_word_embeddings": True}))
    assert count(config).total - count(tied).total == 97 * 32
    assert count(config).activated_mean == count(tied).activated_mean
    short, long = (count(config, context) for context in (10, 20))
    per_position = 2 * (2 * 2) * 3 * (16 + 8)  # flops, modules, heads, widths
    assert long.flops_per_token_prefill - short.flops_per_token_prefill == per_position * 10 // 2
    assert long.flops_per_token_train == 3 * long.flops_per_token_prefill
    of_latents = 2 * (2 * 2) * 3 * (16 + 6 + 16)
    assert long.flops_per_token_decode - short.flops_per_token_decode == of_latents * 10


def test_without_zero_experts_every_token_costs_the_same(config: ModelConfig) -> None:
    few = count(ModelConfig(**(config.model_dump() | {"zero_expert_num": 1})))
    none = count(ModelConfig(**(config.model_dump() | {"zero_expert_num": 0})))
    assert none.activated_min == none.activated_mean == none.activated_max
    expert = 2 * 3 * 32 * 12  # in both layers
    assert few.activated_max - few.activated_min == expert


def test_weights_have_the_computed_number_of_bytes(build_model: BuildModel, tmp_path: object) -> None:
    model = build_model()
    memory = count(model.config).memory
    folder = tmp_path / "saved"  # type: ignore[operator]
    save_pretrained(model, folder)
    stored = load_file(folder / "model.safetensors").values()
    assert memory.weights_fp32 == sum(tensor.nbytes for tensor in stored)
    half = model.to(torch.bfloat16)
    for router in half.routers():
        router.to(torch.float32)
    assert memory.weights_bf16 == sum(tensor.nbytes for tensor in half.state_dict().values())
    blocked = {key: tensor for key, tensor in published_tensors(model) if tensor.dim() == 2}
    quantised = [t for k, t in blocked.items() if "router" not in k and "embed" not in k and "lm_head" not in k]
    # Every matrix of this model fits into one block.
    saved = sum(tensor.numel() for tensor in quantised) - 4 * len(quantised)
    assert memory.weights_bf16 - memory.weights_fp8 == saved
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert memory.optimizer == 8 * parameters
    assert memory.training_fp32 == memory.weights_fp32 + 12 * parameters
    assert dataclasses.asdict(memory)["training_bf16"] == memory.weights_bf16 + 14 * parameters


def test_a_step_counts_the_experts_that_ran(config: ModelConfig) -> None:
    config = config.model_copy(update={"num_nextn_predict_layers": 1})
    sizes = count(config, 64)
    usual = [sizes.mean_ffn_experts] * config.num_layers
    assert training_flops(sizes, config, usual, mtp=False) == sizes.flops_per_token_train
    one_more = [usual[0] + 1, *usual[1:]]
    expert = 3 * config.hidden_size * config.expert_ffn_hidden_size
    assert training_flops(sizes, config, one_more, mtp=False) == pytest.approx(sizes.flops_per_token_train + 6 * expert)
    further = training_flops(sizes, config, usual, mtp=True) - sizes.flops_per_token_train
    assert further == sizes.mtp_flops_per_token_train > 0
