"""The model and the step to be planned, reduced to the figures that all estimates share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from longcat.kernels.linear_cross_entropy.cpu import CHUNK_MIB
from longcat.model.accounting import TRAINING_PASSES, Accounting, count
from longcat.model.config import ModelConfig
from longcat.model.training_memory import TrainingMemory, training_memory
from longcat.stages.plan.config import Checkpointing, PlanOptions
from longcat.stages.plan.inventory import Inventory, take_inventory

PROBE = 1 << 20  # tokens of the estimate that figures per token are taken from
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, eq=False)
class Work:
    """A model, its training step and its figures by layer; hashed by identity."""

    model: ModelConfig
    options: PlanOptions
    sequence_length: int
    sizes: Accounting
    inventory: Inventory

    @classmethod
    def of(cls, model: ModelConfig, options: PlanOptions, sequence_length: int) -> Work:
        return cls(model, options, sequence_length, count(model, sequence_length), take_inventory(model))

    @property
    def item(self) -> int:
        """Bytes of a value in the compute dtype."""
        return BYTES[self.options.dtype]

    @property
    def layers(self) -> int:
        return self.model.num_layers

    def single_process(self, tokens: int, parts: int, checkpointing: Checkpointing) -> TrainingMemory:
        return training_memory(self.model, self.options.dtype, tokens, parts=parts, checkpointing=checkpointing)

    @cached_property
    def kept_per_token(self) -> dict[str, float]:
        """Bytes that a layer keeps for its backward pass, by what is computed again."""
        found = {what: self.single_process(PROBE, 1, what) for what in ("none", "selective")}
        kept = {what: memory.activations / PROBE / self.layers for what, memory in found.items()}
        return {**kept, "block": float(self.row_bytes)}

    @property
    def row_bytes(self) -> int:
        """A token's hidden state."""
        return self.item * self.model.hidden_size

    @property
    def expert_rows(self) -> float:
        """Rows that a token sends to FFN experts on average."""
        return self.sizes.mean_ffn_experts

    @property
    def latent_bytes(self) -> float:
        """Bytes of a token that a context-parallel layer gathers: what its attention caches."""
        return self.sizes.kv_bytes_per_token / 2 * self.item / self.layers

    @property
    def expanded_bytes(self) -> float:
        """Bytes of a token's keys and values of all heads, in a layer."""
        return self.sizes.expanded_kv_bytes_per_token / 2 * self.item / self.layers

    def logit_bytes(self, tokens: float) -> int:
        """Logits that exist at once."""
        return round(min(CHUNK_MIB << 20, self.item * tokens * self.model.vocab_size))

    @cached_property
    def output_flops(self) -> float:
        """Training FLOPs per token of the output projection."""
        return 2 * TRAINING_PASSES * self.model.vocab_size * self.model.hidden_size

    @property
    def head_flops(self) -> float:
        """Training FLOPs per token of the last stage beside its layers."""
        return self.output_flops + self.sizes.mtp_flops_per_token_train

    @cached_property
    def layer_flops(self) -> float:
        """Training FLOPs per token of a layer on average."""
        return (self.sizes.flops_per_token_train - self.output_flops) / self.layers

    @property
    def step_flops_per_token(self) -> float:
        """Training FLOPs per token, without recomputation."""
        return self.sizes.flops_per_token_train + self.sizes.mtp_flops_per_token_train

    def computed_again(self, checkpointing: Checkpointing) -> float:
        """FLOPs per token that a layer computes twice."""
        if checkpointing == "none":
            return 0
        if checkpointing == "block":
            return self.layer_flops / TRAINING_PASSES
        return self._part("dense_ffn") + self.expert_flops

    @cached_property
    def expert_flops(self) -> float:
        """Forward FLOPs per token of the experts of a layer."""
        experts = self.sizes.parameters["experts"] / self.model.n_routed_experts / self.layers
        return 2 * self.expert_rows * experts

    @property
    def cached_attention_flops(self) -> int:
        """FLOPs of attention of one token over a full cache, in all layers, without matrices."""
        prefill = self.sizes.flops_per_token_prefill - self.sizes.attention_flops_per_token
        return self.sizes.flops_per_token_decode - prefill

    def _part(self, name: str) -> float:
        """Forward FLOPs per token of the matrices of a part, in a layer."""
        return 2 * self.sizes.parameters[name] / self.layers

    @cached_property
    def windows(self) -> tuple[float, float]:
        """Forward FLOPs per token of a layer while rows go to experts, and while they return.

        In a shortcut layer the first dense network and the second attention, and the second dense network; none where
        the experts' output is needed at once.
        """
        if self.model.moe_layout == "interleaved":
            return 0.0, 0.0
        attention = self._part("attention") + self.sizes.attention_flops_per_token / self.layers
        dense = self._part("dense_ffn")
        return (dense + attention) / 2, dense / 2
