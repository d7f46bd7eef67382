"""Parameter counts, FLOPs and memory of a model, computed on the meta device without allocating tensors."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, groupby

import torch

from longcat.model.attention.base import SequenceMixer
from longcat.model.config import ModelConfig
from longcat.model.layout import published_tensors
from longcat.model.published_keys import indexer_shapes
from longcat.model.transformer import LongcatFlash

PRETRAINING_LENGTH = 8192  # tokens, the published sequence length
REPORTED_SHARE = Fraction(2, 3)  # of selected experts, that are FFN experts: the report, section 2.1
TRAINING_PASSES = 3  # forward, gradient of inputs, gradient of weights
CACHE_BYTES_PER_VALUE = 2  # bfloat16
FP8_BLOCK, FP8_SCALE_BYTES = 128, 4  # one float32 scale for every 128 x 128 weights, as in DeepSeek-V3
PARTS = (
    *("embedding", "ngram", "output", "attention", "dense_ffn", "experts", "router", "norms", "indexer", "other"),
    "mtp",
)

# Part of the model by substring of the published key; the first match wins.
_PART_OF_SEGMENT = {
    "mtp": "mtp",
    "indexer": "indexer",
    "experts": "experts",
    "router": "router",
    "self_attn": "attention",
    "mlps": "dense_ffn",
    "tables": "ngram",
    "projection": "ngram",
    "embed_tokens": "embedding",
    "lm_head": "output",
}
# Parts of published keys whose tensors are bfloat16 in an FP8 checkpoint.
_WIDE_PARTS = frozenset({"embed_tokens", "ngram_embeddings", "lm_head", "indexer"})


@dataclass(frozen=True)
class Memory:
    """Bytes of all tensors of a checkpoint, and of the training state.

    Routers are float32 in every format. `weights_fp8` has one byte per weight of attention, feed-forward networks and
    experts, and their scales; the rest is bfloat16. `optimizer` is the two moments of AdamW in float32. `training_fp32`
    is weights, gradients and moments; `training_bf16` is weights and gradients in bfloat16, and a float32 copy of the
    weights and moments.
    """

    weights_fp32: int
    weights_bf16: int
    weights_fp8: int
    optimizer: int
    training_fp32: int
    training_bf16: int


@dataclass(frozen=True)
class Accounting:
    """Parameters, and costs per token; multi-token prediction (`parameters["mtp"]`) is not included in any other
    figure.

    `activated_*` count the parameters that one token uses, with one matrix of vocabulary size (the output projection)
    and no table of embeddings, of tokens or n-grams: minimum (as many selected experts as possible are zero-computation
    ones), maximum (none is), and average when FFN experts are selected in proportion to their number.

    `activated_reported` is for two thirds of the selected experts, as all published models are trained to (8 of 12),
    also those whose zero-computation experts are a smaller share.

    FLOPs are for that average: `flops_per_token_train` forward and backward with causal attention over `context`
    tokens, `flops_per_token_prefill` the forward pass alone, `flops_per_token_decode` one token after `context` cached
    ones; `attention_flops_per_token` is the part of attention in the forward pass. `kv_bytes_per_token` is the growth
    of the KV cache per token at `context` tokens in bfloat16 (the latents, for latent attention), `state_bytes` its
    total size then, `expanded_kv_bytes_per_token` the size of the keys and values of all heads.
    """

    total: int
    parameters: dict[str, int]
    activated_min: int
    activated_mean: int
    activated_max: int
    activated_reported: int
    mean_ffn_experts: float
    context: int
    flops_per_token_train: int
    flops_per_token_prefill: int
    flops_per_token_decode: int
    mtp_flops_per_token_train: int
    attention_flops_per_token: int
    mtp_attention_flops_per_token: int
    kv_bytes_per_token: int
    state_bytes: int
    expanded_kv_bytes_per_token: int
    memory: Memory


def count(config: ModelConfig, context: int | None = None) -> Accounting:
    """Count a model; `context` in tokens is 8,192 by default, or the model's if that is less."""
    context = context or min(PRETRAINING_LENGTH, config.max_position_embeddings)
    with torch.device("meta"):
        model = LongcatFlash(config.runnable_part)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    kept = {name: torch.Size(shape) for name, shape in indexer_shapes(config) if name not in shapes}
    parts = dict.fromkeys(PARTS, 0)
    for name, shape in (shapes | kept).items():
        parts[_part(name, shape)] += shape.numel()
    total = sum(parts.values()) - parts["mtp"]
    output_table = config.vocab_size * config.hidden_size
    experts_of_layers = parts["experts"] // config.n_routed_experts  # one expert in every layer
    tables = config.ngram_tables.rows * config.ngram_tables.width if config.ngram_tables else 0
    always = total - parts["experts"] - parts["embedding"] - tables - parts["output"] + output_table
    fewest = max(0, config.moe_topk - config.zero_expert_num)
    mean_ffn_experts = config.moe_topk * config.n_routed_experts / config.num_experts
    activated_mean = always + round(mean_ffn_experts * experts_of_layers)

    mixers, of_mtp = _mixers(model)
    multiplied = activated_mean - parts["norms"]
    attention, mtp_attention = _flops_per_token(mixers, context), _flops_per_token(of_mtp, context)
    forward = 2 * multiplied + attention
    mtp_multiplied = output_table + sum(shape.numel() for name, shape in shapes.items() if _is_mtp_matrix(name, shape))
    mtp_forward = 2 * mtp_multiplied + mtp_attention if parts["mtp"] else 0
    state_bytes, bytes_before = (
        sum(mixer.bytes_per_value * mixer.state_values(length) for mixer in mixers) for length in (context, context - 1)
    )
    return Accounting(
        total=total,
        parameters=parts,
        activated_min=always + fewest * experts_of_layers,
        activated_mean=activated_mean,
        activated_reported=always + round(REPORTED_SHARE * config.moe_topk * experts_of_layers),
        activated_max=always + min(config.moe_topk, config.n_routed_experts) * experts_of_layers,
        mean_ffn_experts=mean_ffn_experts,
        context=context,
        flops_per_token_train=TRAINING_PASSES * forward,
        flops_per_token_prefill=forward,
        flops_per_token_decode=2 * multiplied + sum(mixer.flops(1, context) for mixer in mixers),
        mtp_flops_per_token_train=TRAINING_PASSES * mtp_forward,
        attention_flops_per_token=attention,
        mtp_attention_flops_per_token=mtp_attention,
        kv_bytes_per_token=state_bytes - bytes_before,
        state_bytes=state_bytes,
        expanded_kv_bytes_per_token=CACHE_BYTES_PER_VALUE * sum(mixer.expanded_values() for mixer in mixers),
        memory=_memory(model, kept.values()),
    )


class AttentionFlops:
    """FLOPs of attention in a forward pass over documents, each by itself, without the weight matrices."""

    def __init__(self, config: ModelConfig) -> None:
        with torch.device("meta"):
            self._mixers, self._of_mtp = _mixers(LongcatFlash(config.runnable_part))
        self._of_length = lru_cache(maxsize=1 << 16)(self._one)

    def of(self, lengths: Iterable[int], *, mtp: bool) -> int:
        """Sum over documents of these lengths; `mtp`: with the layer of multi-token prediction."""
        return sum(times * self._of_length(length, mtp) for length, times in Counter(lengths).items())

    def _one(self, length: int, mtp: bool) -> int:
        return sum(mixer.flops(length, 0) for mixer in (*self._mixers, *(self._of_mtp if mtp else ())))


def training_flops(
    sizes: Accounting,
    config: ModelConfig,
    active_experts: Sequence[float],
    *,
    mtp: bool,
    attention: float | None = None,
) -> float:
    """FLOPs per token of a training step that used `active_experts` FFN experts per token on average, by layer.

    `sizes` is `count(config, context)` with the step's sequence length as context; with `mtp` multi-token prediction is
    trained too. `attention` is the mean over tokens of `AttentionFlops` for the documents of the step; None: every
    token sees the whole context before it. Activation recomputation is not counted, as in MFU.
    """
    parameters_of_expert = sizes.parameters["experts"] / config.n_routed_experts / config.num_layers
    surplus = sum(active_experts) - config.num_layers * sizes.mean_ffn_experts
    flops = sizes.flops_per_token_train + 2 * TRAINING_PASSES * surplus * parameters_of_expert
    flops += sizes.mtp_flops_per_token_train if mtp else 0
    if attention is None:
        return flops
    counted = sizes.attention_flops_per_token + (sizes.mtp_attention_flops_per_token if mtp else 0)
    return flops + TRAINING_PASSES * (attention - counted)


def _mixers(model: LongcatFlash) -> tuple[list[SequenceMixer], list[SequenceMixer]]:
    """Token mixers of the layers, and those of multi-token prediction."""
    mixers = [module for module in model.modules() if isinstance(module, SequenceMixer)]
    first = model.config.mtp_slot
    return [one for one in mixers if one.slot < first], [one for one in mixers if one.slot >= first]


def _part(name: str, shape: torch.Size) -> str:
    segments = name.split(".")
    if len(shape) == 1 and not {"mtp", "indexer"} & set(segments):
        return "norms"
    return next((part for segment, part in _PART_OF_SEGMENT.items() if segment in segments), "other")


def _is_mtp_matrix(name: str, shape: torch.Size) -> bool:
    segments = name.split(".")
    return "mtp" in segments and "embed_tokens" not in segments and len(shape) > 1


def _flops_per_token(mixers: Sequence[SequenceMixer], length: int) -> int:
    """Attention FLOPs per token, for a row of this many tokens."""
    return sum(mixer.flops(length, 0) for mixer in mixers) // length


def _memory(model: LongcatFlash, kept: Iterable[torch.Size]) -> Memory:
    """`kept`: shapes of tensors beside those of the model, bfloat16 in an FP8 checkpoint."""
    kept = list(kept)
    parameters = sum(parameter.numel() for parameter in model.parameters()) + sum(shape.numel() for shape in kept)
    fp32 = bf16 = fp8 = 0
    stored = ((tensor.shape, _lowest_bytes(key, tensor)) for key, tensor in published_tensors(model))
    for (shape, lowest), run in groupby(chain(stored, ((shape, 2) for shape in kept))):
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
    """Bytes per value in the smallest format that the tensor is published in."""
    segments = key.split(".")
    if "router" in segments:
        return 4
    return 1 if tensor.dim() == 2 and _WIDE_PARTS.isdisjoint(segments) else 2
