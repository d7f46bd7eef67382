"""Latent attention over chosen positions, with the projections absorbed; what kinds that choose them share.

Short rows, whose tokens all see no more positions than they may choose, take the path of dense attention, bit for bit.

Names: B batch, T tokens, S positions, H heads, K chosen positions, C latent width, R rotary width, N width without
position, V value width, E = C + R.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from longcat.kernels.mla_project import Projected
from longcat.kernels.mla_sparse import mla_sparse
from longcat.model.attention.covered_mass import covered_mass
from longcat.model.attention.document_starts import document_starts
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.paged_mla import absorbed_queries, expanded_outputs
from longcat.model.attention.pages import Span

if TYPE_CHECKING:
    from longcat.model.attention.base import SequenceContext
    from longcat.model.attention.options import MixerOptions
    from longcat.model.config import ModelConfig


class ChosenPositions(MultiHeadLatentAttention):
    """Base of kinds whose tokens attend to at most `count` positions of their own."""

    # Positions that a token attends to at most.
    count: int

    def __init__(self, config: ModelConfig, slot: int, options: MixerOptions) -> None:
        super().__init__(config, slot, options)
        self._sees_all = True  # in short rows; `absorbs` tells which

    def absorbs(self, span: Span) -> bool:
        return span.length <= self.count and super().absorbs(span)

    @property
    def absorption(self) -> tuple[int, ...]:
        return *super().absorption, self.count

    def is_dense(self, positions: int, where: SequenceContext) -> bool:
        """Whether no token of rows of this many positions sees more than it may choose."""
        least = self.count if where.budgets_B is None else int(where.budgets_B.min())
        return positions <= least

    def absorbed(self, projected: Projected) -> torch.Tensor:
        """Queries [B, T, H, E] of latents and rotary keys."""
        q_nope_XHN, q_rope_XHR = projected.q_nope_BTHN.flatten(0, 1), projected.q_rope_BTHR.flatten(0, 1)
        return absorbed_queries(self, q_nope_XHN, q_rope_XHR).unflatten(0, projected.q_nope_BTHN.shape[:2])

    def expand_values(self, o_BTHC: torch.Tensor) -> torch.Tensor:
        """Values [B, T, H, V] of sums of latents."""
        return expanded_outputs(self, o_BTHC.flatten(0, 1)).unflatten(0, o_BTHC.shape[:2])

    def attend_group(self, q_BTHE: torch.Tensor, e_BSE: torch.Tensor, chosen_BTK: torch.Tensor) -> torch.Tensor:
        """Sums of latents [B, T, H, C] of heads that attend to the same positions."""
        return mla_sparse(q_BTHE, e_BSE, chosen_BTK, self.latent_width, self.softmax_scale)

    @abstractmethod
    def choices(
        self, x_BTD: torch.Tensor, q_BTHE: torch.Tensor, e_BTE: torch.Tensor, where: SequenceContext
    ) -> list[torch.Tensor] | None:
        """Positions [B, T, K] that each of the equal groups of heads attends to; None if another module chooses."""

    @torch.no_grad()
    def coverage(self, x_BTD: torch.Tensor, where: SequenceContext, budgets: Sequence[int]) -> torch.Tensor | None:
        projected = self.project(x_BTD, where)
        q_BTHE = self.absorbed(projected)
        e_BTE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)
        by_budget = []
        for budget in budgets:
            rows_B = torch.full((len(x_BTD),), budget, device=x_BTD.device)
            chosen = self.choices(x_BTD, q_BTHE, e_BTE, replace(where, budgets_B=rows_B))
            if chosen is None:
                return None
            by_budget.append(chosen)
        starts_BT = document_starts(where, x_BTD.shape[0], x_BTD.shape[1], x_BTD.device)
        shares = [
            covered_mass(q_BTXE, e_BTE, self.softmax_scale, starts_BT, of_group)
            for q_BTXE, of_group in zip(
                q_BTHE.chunk(len(by_budget[0]), dim=2), zip(*by_budget, strict=True), strict=True
            )
        ]
        return torch.stack(shares).mean(0)

    def flops(self, tokens: int, cached: int) -> int:
        if cached + tokens <= self.count:
            return super().flops(tokens, cached)
        return 2 * self.pairs(tokens, cached) * self._absorbed_width()

    def pairs(self, tokens: int, cached: int) -> int:
        """Pairs of a token and a position that it attends to."""
        few = max(0, min(tokens, self.count - cached))  # tokens that see no more than they may choose
        return few * (2 * cached + few + 1) // 2 + (tokens - few) * self.count
