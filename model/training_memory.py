"""Estimate of the memory of a training step of one process, from the shapes of the model; nothing is allocated.

Counted are weights, gradients, moments, the copy in the compute dtype, what the operations of the CPU keep for the
backward pass, the logits of a chunk, and what an update with Muon needs; of n-gram tables the gradients of the rows
read, and moments as if every row had been read. The process before the training (about 0.4 GiB with its libraries) is
not counted. Kinds of attention other than latent attention are counted like it.

A process on a CPU needs more than these tensors: what a backward pass needs only for a moment, memory that the
allocator keeps when tensors are gone, and code and caches of the libraries, which are loaded in the first step.
`TrainingMemory.host_peak` contains them, by two constants of a fit to five runs of presets `tiny`, `tiny-long` and
`demo` with 512 to 8,192 tokens in a micro batch, whose peaks it gives within 5 %.

Names: D hidden, F inner width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from longcat.kernels.linear_cross_entropy.cpu import CHUNK_MIB
from longcat.model.attention.base import SequenceMixer
from longcat.model.config import ModelConfig
from longcat.model.ffn import FeedForward
from longcat.model.matrices import TOGETHER, matrices_of
from longcat.model.moe.mixture import MixtureOfExperts
from longcat.model.norm import RMSNorm
from longcat.model.transformer import LongcatFlash

WIDE, HALF = 4, 2  # bytes
# Queries, keys, values and the output, of which half-precision attention pads the values; the output twice.
ATTENTION_VALUES = {WIDE: 2.5, HALF: 2.8}
INNER_VALUES = {WIDE: 3, HALF: 2}  # gate, up and their product; in half precision the product is computed again
PADDING = 1.1  # rows of experts in half precision
LIBRARIES = 55 << 20  # bytes
RETAINED = 1.35  # what a step takes from the allocator, as a multiple of what the backward pass needs


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes. `copy` is that of the weights in half precision; `average` that of their average; `sums` the part of the
    gradients that exists while activations do; `loss` a chunk of logits and the output's gradient; `update` what the
    optimizer needs for the parameters that it takes together, besides its moments."""

    weights: int
    copy: int
    moments: int
    gradients: int
    activations: int
    loss: int
    update: int = 0
    average: int = 0
    sums: int = 0

    @property
    def peak(self) -> int:
        """All tensors that exist at once."""
        return self._kept + max(self.gradients + self.update, self.sums + self.activations + self.loss)

    @property
    def host_peak(self) -> int:
        """What a process on a CPU has at once beside what it had before, while the last checkpoint is being written."""
        step = self.sums + round(RETAINED * (self.activations + self.loss))
        snapshot = self.weights + self.moments + self.average
        return LIBRARIES + self._kept + snapshot + max(self.gradients + self.update, step)

    @property
    def _kept(self) -> int:
        return self.weights + self.copy + self.moments + self.average


def training_memory(
    config: ModelConfig,
    dtype: Literal["float32", "bfloat16"],
    tokens: int,
    *,
    parts: int = 1,
    checkpointing: str = "none",
    optimizer: str = "adamw",
    averaged: bool = False,
) -> TrainingMemory:
    """Estimate for micro batches of `tokens` tokens, `parts` of them per step.

    `checkpointing` and `optimizer` are `activation_checkpointing` and `optimizer.kind` of the training configuration;
    `averaged`: whether it has an average of the weights.
    """
    with torch.device("meta"):
        model = LongcatFlash(config)
    size = HALF if dtype == "bfloat16" else WIDE
    count = sum(parameter.numel() for parameter in model.parameters())
    # The sum of several gradients is float32.
    gradient = HALF if size == HALF and parts == 1 else WIDE
    layers = [_bytes_per_token(layer, config, size, checkpointing) for layer in model.model.layers]
    if checkpointing == "block":
        layers = [*(size * config.hidden_size for _ in layers), max(layers)]
    table = config.vocab_size * config.hidden_size
    orthogonal = _orthogonalized(model) if optimizer == "muon" else []
    ngram = config.ngram_tables
    rows = ngram.rows if ngram else 0
    read = min(rows, parts * tokens * ngram.count) if ngram else 0
    row = ngram.width if ngram else 0
    gradients = gradient * (count - rows * row) + WIDE * read * row
    return TrainingMemory(
        weights=WIDE * count,
        copy=HALF * (count - rows * row) if size == HALF else 0,
        moments=WIDE * (2 * count - sum(orthogonal)),
        gradients=gradients,
        average=WIDE * count if averaged else 0,
        # Activations are gone when the gradients of a single micro batch are complete.
        sums=gradients if parts > 1 else 0,
        activations=round(tokens * sum(layers)),
        loss=min(CHUNK_MIB << 20, size * tokens * config.vocab_size) + size * table,
        # What is orthogonalised, its orthogonal factor, and the update.
        update=3 * WIDE * max(max(orthogonal, default=0), min(sum(orthogonal), TOGETHER)),
    )


def _orthogonalized(model: LongcatFlash) -> list[int]:
    """Values of the parameters that Muon updates; it keeps one moment of them and not two."""
    named = model.named_parameters()
    return [value.numel() for name, value in named if matrices_of(model.config, name, value.shape) is not None]


def _bytes_per_token(layer: torch.nn.Module, config: ModelConfig, size: int, checkpointing: str) -> float:
    """What a layer keeps for its backward pass."""
    inner = 0.0 if checkpointing == "selective" else 1.0
    found = 0.0
    for module in layer.modules():
        if isinstance(module, RMSNorm):
            found += 2 * size * module.weight.numel()  # its input and its output
        elif isinstance(module, SequenceMixer):
            found += ATTENTION_VALUES[size] * size * module.expanded_values()
        elif isinstance(module, FeedForward):
            found += inner * INNER_VALUES[size] * size * module.up_proj.weight.shape[0]
        elif isinstance(module, MixtureOfExperts):
            found += _experts(config, size, inner)
    return found


def _experts(config: ModelConfig, size: int, inner: float) -> float:
    """Rows of the experts selected on average, and the router's scores, which are float32 as is its input."""
    rows = config.moe_topk * config.n_routed_experts / config.num_experts
    gate_up = 2 * config.expert_ffn_hidden_size
    if size == HALF:
        return inner * PADDING * rows * HALF * gate_up + WIDE * (config.num_experts + config.hidden_size)
    # Inputs and outputs of the experts are kept too, the latter for the gradient of their weights.
    return WIDE * (rows * (inner * (config.hidden_size + gate_up) + config.hidden_size) + config.num_experts)
