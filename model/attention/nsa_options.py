"""Options of native sparse attention on latents (`model.attention.nsa`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from longcat.model.attention.options import MixerOptions
from longcat.model.bounds import MAX_CONTEXT, MAX_WIDTH

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig


class NSAOptions(MixerOptions):
    """Options of the kind `nsa`."""

    compress_size: int = Field(default=32, ge=1, le=MAX_CONTEXT, description="positions of a compressed block")
    compress_stride: int = Field(default=16, ge=1, le=MAX_CONTEXT, description="positions between their starts")
    block: int = Field(default=64, ge=1, le=MAX_CONTEXT, description="positions of a selection block")
    top_n: int = Field(default=16, ge=1, le=MAX_CONTEXT, description="selection blocks that a token attends to")
    initial_blocks: int = Field(default=1, ge=0, le=MAX_CONTEXT, description="first blocks, always chosen")
    local_blocks: int = Field(default=2, ge=1, le=MAX_CONTEXT, description="last blocks, always chosen")
    window: int = Field(default=512, ge=1, le=MAX_CONTEXT, description="positions of the window branch")
    head_groups: int = Field(default=1, ge=1, le=MAX_WIDTH, description="groups of heads with a choice of their own")
    group_scores: Literal["sum", "max"] = Field(default="sum", description="scores of a group from those of its heads")
    query_group: int = Field(default=4, ge=1, le=MAX_CONTEXT, description="consecutive queries with the same choice")
    gate: Literal["sigmoid", "softmax"] = Field(default="sigmoid", description="how branches are weighted")
    branches: str = Field(default="111", pattern="^[01]{3}$", description="compressed, selected, window: 1 is on")
    latents: int = Field(default=1, ge=1, le=MAX_WIDTH, description="groups of heads with a part of the latent each")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, step in (
            ("compress_size", "compress_stride"),
            ("block", "compress_stride"),
            ("block", "query_group"),
        ):
            if getattr(self, name) % getattr(self, step):
                raise ValueError(f"{step} = {getattr(self, step)} must divide {name} = {getattr(self, name)}")
        if self.branches == "000":
            raise ValueError("branches = '000' switches all branches off; leave one on")
        if self.initial_blocks + self.local_blocks > self.top_n:
            raise ValueError(
                f"initial_blocks = {self.initial_blocks} and local_blocks = {self.local_blocks} exceed top_n = "
                f"{self.top_n}"
            )
        return self

    @property
    def selects(self) -> bool:
        """Whether the branch of selected blocks is on."""
        return self.branches[1] == "1"

    def compressed(self, length: int) -> int:
        """Complete compressed blocks of so many positions."""
        return max(0, (length - self.compress_size) // self.compress_stride + 1)

    def compressed_pairs(self, length: int) -> int:
        """Pairs of one of the first `length` queries and a compressed block that it sees."""
        rounds, rest = divmod(max(0, length - self.compress_size + 1), self.compress_stride)
        return self.compress_stride * rounds * (rounds + 1) // 2 + rest * (rounds + 1)

    def check(self, config: ModelConfig) -> None:
        """Raise ValueError if they do not fit the model."""
        context, heads = config.max_position_embeddings, config.num_attention_heads
        for name, value, of, whole in (
            ("head_groups", self.head_groups, "num_attention_heads", heads),
            ("latents", self.latents, "num_attention_heads", heads),
            ("latents", self.latents, "kv_lora_rank", config.kv_lora_rank),
        ):
            if whole % value:
                raise ValueError(f"{name} = {value} does not divide {of} = {whole}")
        blocks = -(-context // self.block)
        if self.selects and self.top_n > blocks:
            raise ValueError(
                f"top_n = {self.top_n} exceeds the {blocks} blocks of block = {self.block} positions in "
                f"max_position_embeddings = {context}"
            )
        for name in ("window", "compress_size"):
            if getattr(self, name) > context:
                raise ValueError(f"{name} = {getattr(self, name)} exceeds max_position_embeddings = {context}")
