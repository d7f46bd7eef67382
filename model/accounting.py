"""How large a model is and what it costs, counted on the meta device: every tensor has a shape and none has memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from longcat.model.config import ModelConfig
from longcat.model.layout import published_tensors
from longcat.model.transformer import LongcatFlash

PRETRAINING_LENGTH = 8192  # tokens, the published length of sequences
TRAINING_PASSES = 3  # forward, gradient of inputs, gradient of weights
CACHE_BYTES_PER_VALUE = 2  # bfloat16
FP8_BLOCK, FP8_SCALE_BYTES = 128, 4  # one float32 scale for every 128 x 128 weights, as DeepSeek-V3 has it
PARTS = ("embedding", "output", "attention", "dense_ffn", "experts", "router", "norms", "other", "mtp")

# What a published key says about the part that it belongs to; the first that fits is taken.
_PART_OF_SEGMENT = {
    "mtp": "mtp",
    "experts": "experts",
    "router": "router",
    "self_attn": "attention",
    "mlps": "dense_ffn",
    "embed_tokens": "embedding",
    "lm_head": "output",
}


@dataclass(frozen=True)
class Memory:
    """Bytes of all tensors of a checkpoint, and of what training keeps beside them.

    Routers are float32 in every format. `weights_fp8` has one byte a weight of attention, networks and experts, and
    their scales; the rest is bfloat16. `optimizer` is the two moments of AdamW in float32. `training_fp32` is weights,
    gradients and moments; `training_bf16` is weights and gradients in bfloat16, and a float32 copy of the weights and
    moments.
    """

    weights_fp32: int
    weights_bf16: int
    weights_fp8: int
    optimizer: int
    training_fp32: int
    training_bf16: int


@dataclass(frozen=True)
class Accounting:
    """Parameters, and costs a token; prediction of further tokens (`parameters["mtp"]`) is in no other figure of these.

    `activated_*` count the parameters that one token uses, with one matrix of vocabulary size (the output projection)
    and not the embedding table: at least (as many of the selected experts as can be are zero-computation ones), at most
    (none is), and on average when FFN experts are selected as often as they are numerous.

    FLOPs are those of that average: `flops_per_token_train` forward and backward with causal attention over `context`
    tokens, `flops_per_token_prefill` the forward pass alone, `flops_per_token_decode` one token after `context` cached
    ones. `kv_bytes_per_token` is the cache of latents in bfloat16, `expanded_kv_bytes_per_token` what the keys and
    values of every head would take.
    """

    total: int
    parameters: dict[str, int]
    activated_min: int
    activated_mean: int
    activated_max: int
    mean_ffn_experts: float
    context: int
    flops_per_token_train: int
    flops_per_token_prefill: int
    flops_per_token_decode: int
    mtp_flops_per_token_train: int
    kv_bytes_per_token: int
    expanded_kv_bytes_per_token: int
    memory: Memory


def count(config: ModelConfig, context: int | None = None) -> Accounting:
    """Account for a model; `context` in tokens is 8,192 by default, or the model's if that is less."""
    context = context or min(PRETRAINING_LENGTH, config.max_position_embeddings)
    with torch.device("meta"):
        model = LongcatFlash(config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    parts = dict.fromkeys(PARTS, 0)
    for name, shape in shapes.items():
        parts[_part(name, shape)] += shape.numel()
    total = sum(parts.values()) - parts["mtp"]
    output_table = config.vocab_size * config.hidden_size
    experts_of_layers = parts["experts"] // config.n_routed_experts  # one expert in every layer
    always = total - parts["experts"] - parts["embedding"] - parts["output"] + output_table
    fewest = max(0, config.moe_topk - config.zero_expert_num)
    mean_ffn_experts = config.moe_topk * config.n_routed_experts / config.num_experts
    activated_mean = always + round(mean_ffn_experts * experts_of_layers)

    modules, mtp_modules = _attention_modules(shapes)
    multiplied = activated_mean - parts["norms"]
    forward = 2 * multiplied + modules * _expanded_flops(config, context)
    mtp_multiplied = output_table + sum(shape.numel() for name, shape in shapes.items() if _is_mtp_matrix(name, shape))
    mtp_forward = 2 * mtp_multiplied + mtp_modules * _expanded_flops(config, context) if parts["mtp"] else 0
    return Accounting(
        total=total,
        parameters=parts,
        activated_min=always + fewest * experts_of_layers,
        activated_mean=activated_mean,
        activated_max=always + min(config.moe_topk, config.n_routed_experts) * experts_of_layers,
        mean_ffn_experts=mean_ffn_experts,
        context=context,
        flops_per_token_train=TRAINING_PASSES * forward,
        flops_per_token_prefill=forward,
        flops_per_token_decode=2 * multiplied + modules * _absorbed_flops(config, context),
        mtp_flops_per_token_train=TRAINING_PASSES * mtp_forward,
        kv_bytes_per_token=modules * (config.kv_lora_rank + config.qk_rope_head_dim) * CACHE_BYTES_PER_VALUE,
        expanded_kv_bytes_per_token=modules * _expanded_width(config) * CACHE_BYTES_PER_VALUE,
        memory=_memory(model),
    )


def training_flops(sizes: Accounting, config: ModelConfig, active_experts: Sequence[float], *, mtp: bool) -> float:
    """FLOPs a token of a training step in which it used `active_experts` FFN experts on average, layer by layer.

    `sizes` is `count(config, context)` with the length of the step's sequences as context; with `mtp` the prediction of
    further tokens is trained too. Recomputation of activations counts nothing, as in MFU.
    """
    parameters_of_expert = sizes.parameters["experts"] / config.n_routed_experts / config.num_layers
    surplus = sum(active_experts) - config.num_layers * sizes.mean_ffn_experts
    flops = sizes.flops_per_token_train + 2 * TRAINING_PASSES * surplus * parameters_of_expert
    return flops + (sizes.mtp_flops_per_token_train if mtp else 0)


def _part(name: str, shape: torch.Size) -> str:
    segments = name.split(".")
    if len(shape) == 1 and "mtp" not in segments:
        return "norms"
    return next((part for segment, part in _PART_OF_SEGMENT.items() if segment in segments), "other")


def _is_mtp_matrix(name: str, shape: torch.Size) -> bool:
    segments = name.split(".")
    return "mtp" in segments and "embed_tokens" not in segments and len(shape) > 1


def _attention_modules(names: dict[str, torch.Size]) -> tuple[int, int]:
    """How many attention modules the model has, and how many more its prediction of further tokens."""
    found = [name for name in names if name.endswith("kv_a_proj_with_mqa.weight")]
    of_mtp = sum("mtp" in name.split(".") for name in found)
    return len(found) - of_mtp, of_mtp


def _expanded_width(config: ModelConfig) -> int:
    return config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)


def _expanded_flops(config: ModelConfig, length: int) -> int:
    """Scores and mixing of values in the forward pass, a token: it sees (length + 1) / 2 positions on average."""
    return _expanded_width(config) * (length + 1)


def _absorbed_flops(config: ModelConfig, cached: int) -> int:
    """The same for one token that sees `cached` latents and itself, with the projections of keys and values absorbed.

    Absorbing multiplies by the same matrices as the expansion of one token does, so only the attention differs.
    """
    return 2 * config.num_attention_heads * (2 * config.kv_lora_rank + config.qk_rope_head_dim) * (cached + 1)


def _memory(model: LongcatFlash) -> Memory:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    fp32 = bf16 = fp8 = 0
    stored = ((tensor.shape, _lowest_bytes(key, tensor)) for key, tensor in published_tensors(model))
    for (shape, lowest), run in groupby(stored):
        tensors = sum(1 for _ in run)
        size = tensors * shape.numel()
        fp32 += 4 * size
        bf16 += max(2, lowest) * size
        fp8 += lowest * size
        if lowest == 1:
            fp8 += tensors * FP8_SCALE_BYTES * -(-shape[0] // FP8_BLOCK) * -(-shape[1] // FP8_BLOCK)
    moments = 8 * parameters
    return Memory(
        weights_fp32=fp32,
        weights_bf16=bf16,
        weights_fp8=fp8,
        optimizer=moments,
        training_fp32=fp32 + 4 * parameters + moments,
        training_bf16=bf16 + 2 * parameters + 4 * parameters + moments,
    )


def _lowest_bytes(key: str, tensor: torch.Tensor) -> int:
    """Bytes a value in the smallest format that the tensor is published in."""
    segments = key.split(".")
    if "router" in segments:
        return 4
    return 1 if tensor.dim() == 2 and "embed_tokens" not in segments and "lm_head" not in segments else 2
