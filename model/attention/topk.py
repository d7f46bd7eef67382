"""Exact top-k attention (arXiv 2512.03494): a token attends to the positions with the greatest attention of its own.

    S_t = arg-top-k_s of the probabilities p_ts of dense attention, of one head or summed over the heads that share it
    o_t = sum_{s in S_t} softmax_s(q_t k_s) v_s

Positions are constants for the gradient; ties go to the lowest position. The scores of all pairs are computed in tiles
of queries, so this costs more than dense attention: it is the measure of what an indexer could reach.

Names: B batch, T tokens, S positions, H heads, G groups of heads, N queries of a tile, K chosen positions, E width of a
cached position.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from longcat.kernels.index_scores import ABSENT, Always, largest, row_counts
from longcat.kernels.mla_project import Projected
from longcat.kernels.precision import accumulation_dtype
from longcat.model.attention.chosen import ChosenPositions
from longcat.model.attention.document_starts import document_starts
from longcat.model.attention.options import MixerOptions
from longcat.model.bounds import MAX_CONTEXT, MAX_WIDTH

if TYPE_CHECKING:
    from longcat.model.attention.base import SequenceContext
    from longcat.model.config import ModelConfig

TILE_VALUES = 1 << 22  # scores of all heads that exist at a time


class TopKOptions(MixerOptions):
    """Options of the kind `topk`."""

    k: int | None = Field(default=None, ge=1, le=MAX_CONTEXT, description="positions that a token attends to")
    ratio: float | None = Field(
        default=None, gt=0, le=1, description="the same as a part of max_position_embeddings, rounded up"
    )
    share: Literal["head", "group", "all"] = Field(
        default="all",
        description="heads that attend to the same positions: each its own, `groups` equal groups, or all",
    )
    groups: int | None = Field(default=None, ge=1, le=MAX_WIDTH, description="groups of heads, with share: group")

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.k is None) == (self.ratio is None):
            raise ValueError("give one of k and ratio, the positions that a token attends to")
        if (self.share == "group") != (self.groups is not None):
            raise ValueError("groups belongs to share: group, which needs it")
        return self


class TopKAttention(ChosenPositions):
    """See the module."""

    kind: ClassVar[str] = "topk"
    opaque: ClassVar[tuple[str, ...]] = ("attend",)
    Options = TopKOptions

    def __init__(self, config: ModelConfig, slot: int, options: TopKOptions) -> None:
        super().__init__(config, slot, options)
        self.count = count_of(config, options)
        self.groups = {"head": self.heads, "group": options.groups or 1, "all": 1}[options.share]

    @classmethod
    def check(cls, config: ModelConfig, options: MixerOptions) -> None:
        assert isinstance(options, TopKOptions)  # noqa: S101  parsed as such
        if options.groups is not None and config.num_attention_heads % options.groups:
            raise ValueError(
                f"groups = {options.groups} does not divide num_attention_heads = {config.num_attention_heads}"
            )
        if options.k is not None and options.k > config.max_position_embeddings:
            raise ValueError(
                f"k = {options.k} exceeds max_position_embeddings = {config.max_position_embeddings}; that is dense "
                "attention, use 'mla'"
            )

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        projected = Projected(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR)
        if self.is_dense(latent_BSC.shape[1], where):
            return super().attend(*projected, where)
        q_BTHE, e_BSE = self.absorbed(projected), torch.cat((latent_BSC, k_rope_BSR), dim=-1)
        parts = []
        for q_BTXE in q_BTHE.chunk(self.groups, dim=2):
            parts.append(self.attend_group(q_BTXE, e_BSE, self.choose(q_BTXE, e_BSE, where)))
        o_BTHC = torch.cat(parts, dim=2)
        return self.expand_values(o_BTHC)

    @classmethod
    def budget_in(cls, config: ModelConfig, slot: int) -> int | None:
        options = config.mixer(slot).options
        assert isinstance(options, TopKOptions)  # noqa: S101  parsed as such
        return count_of(config, options)

    def choices(
        self, x_BTD: torch.Tensor, q_BTHE: torch.Tensor, e_BTE: torch.Tensor, where: SequenceContext
    ) -> list[torch.Tensor]:
        return [self.choose(q_BTXE, e_BTE, where) for q_BTXE in q_BTHE.chunk(self.groups, dim=2)]

    @torch.no_grad()
    def choose(self, q_BTHE: torch.Tensor, e_BSE: torch.Tensor, where: SequenceContext) -> torch.Tensor:
        """Positions [B, T, K] that these heads attend to."""
        batch, tokens, heads, _ = q_BTHE.shape
        keys = e_BSE.shape[1]
        counts = row_counts(self.count, Always(), batch, where.budgets_B)
        chosen_BTK = torch.full((batch, tokens, max(counts)), ABSENT, dtype=torch.int64, device=e_BSE.device)
        starts_BT = document_starts(where, batch, tokens, e_BSE.device)
        size = max(1, TILE_VALUES // (heads * keys))
        for row in range(batch):
            count = min(counts[row], keys)
            for first in range(0, tokens, size):
                part = slice(first, min(tokens, first + size))
                masses_NS = self._masses(q_BTHE[row, part], e_BSE[row], keys - tokens + first, starts_BT[row, part])
                found_NK = largest(masses_NS, count)
                unseen_NK = masses_NS.gather(1, found_NK) < 0
                last_NK = found_NK.masked_fill(unseen_NK, keys).sort(1).values  # absent ones after the others
                chosen_BTK[row, part, :count] = last_NK.masked_fill(last_NK == keys, ABSENT)
        return chosen_BTK

    def _masses(self, q_NHE: torch.Tensor, e_SE: torch.Tensor, before: int, starts_N: torch.Tensor) -> torch.Tensor:
        """Probabilities [N, S] summed over heads, -1 for positions that a query does not see."""
        dtype = accumulation_dtype(q_NHE.dtype)
        scores_NHS = torch.einsum("nhe,se->nhs", q_NHE.to(dtype), e_SE.to(dtype)) * self.softmax_scale
        position_S = torch.arange(e_SE.shape[0], device=e_SE.device)
        at_N1 = torch.arange(before, before + q_NHE.shape[0], device=e_SE.device).unsqueeze(1)
        hidden_NS = (position_S > at_N1) | (position_S < starts_N.unsqueeze(1))
        masses_NS = scores_NHS.masked_fill_(hidden_NS.unsqueeze(1), float("-inf")).softmax(-1).sum(1)
        return masses_NS.masked_fill_(hidden_NS, -1.0)

    def flops(self, tokens: int, cached: int) -> int:
        attended = super().flops(tokens, cached)
        if cached + tokens <= self.count:
            return attended
        scored = tokens * (2 * cached + tokens + 1) // 2
        return attended + 2 * scored * self.heads * (self.latent_width + self.rope_width)


def count_of(config: ModelConfig, options: TopKOptions) -> int:
    """Positions that a token attends to."""
    return options.k or math.ceil((options.ratio or 1) * config.max_position_embeddings)
