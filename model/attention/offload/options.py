"""Options of an offloaded cache."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SUB_BLOCK = 8  # positions of a mean (LongCat Sparse Attention, arXiv 2608.01662, hierarchical indexer)


class OffloadOptions(BaseModel):
    """An offloaded cache (AsyncTLS, arXiv 2604.07815); the defaults of sizes are the paper's."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    tier: Literal["memory", "disk"] = Field(
        description="where all positions are: in memory (of the host, if the model is on a GPU), or in a file"
    )
    folder: Path | None = Field(default=None, description="folder of the file, for tier = disk")
    block: int = Field(
        default=64, ge=SUB_BLOCK, le=1024, multiple_of=SUB_BLOCK, description="positions of a block, which is a page"
    )
    resident_blocks: int = Field(
        default=128, ge=2, le=1 << 16, description="blocks of a text in the fast tier, per attention slot"
    )
    token_budget: int = Field(
        default=0, ge=0, description="positions that a token attends to; 0: all positions of the resident blocks"
    )
    index_channels: int = Field(
        default=128, ge=0, description="channels of the token index, for a token_budget; 0: all channels"
    )
    block_score: Literal["mean", "minmax"] = Field(
        default="mean",
        description=f"summary of a block: means of {SUB_BLOCK} positions, or the least and greatest value by channel",
    )
    heads: Literal["mass", "sum", "max"] = Field(
        default="mass",
        description="how scores of heads become one: the sum of their softmax, of their queries, or the maximum",
    )
    mode: Literal["async", "sync"] = Field(
        default="async", description="sync: wait for every copy at once; the texts are the same"
    )
    measure_every: int = Field(
        default=0, ge=0, description="measure the recall of attention mass at every so many positions; 0: never"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.tier == "disk") != (self.folder is not None):
            raise ValueError(f"tier = {self.tier} {'needs a' if self.tier == 'disk' else 'takes no'} folder")
        held = self.block * self.resident_blocks
        if self.token_budget and not self.block < self.token_budget <= held:
            raise ValueError(
                f"token_budget = {self.token_budget} must exceed block = {self.block}, whose newest positions are "
                f"always seen, and be at most block * resident_blocks = {held}; 0: all resident positions"
            )
        return self

    @property
    def dense_positions(self) -> int:
        """Positions up to which a text has all its blocks in the fast tier, and attention is dense."""
        return self.block * self.resident_blocks
