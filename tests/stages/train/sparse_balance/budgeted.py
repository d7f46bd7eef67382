"""An attention kind with budgets for the tests: every token attends to the positions with the largest scores.

Names: B batch, T tokens, H heads, R budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from longcat.model.attention.base import SequenceContext
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.options import MixerOptions
from longcat.model.config import ModelConfig


class BudgetedOptions(MixerOptions):
    k: int = Field(default=8, ge=1, description="positions that a token attends to")


class BudgetedAttention(MultiHeadLatentAttention):
    """Latent attention of every token and head to the k positions of its document with the largest scores."""

    kind: ClassVar[str] = "test_budgeted"
    Options = BudgetedOptions

    def __init__(self, config: ModelConfig, slot: int, options: BudgetedOptions) -> None:
        super().__init__(config, slot, options)
        self.k = options.k

    @classmethod
    def budget_in(cls, config: ModelConfig, slot: int) -> int | None:
        options = config.mixer(slot).options
        assert isinstance(options, BudgetedOptions)
        return options.k

    def coverage(self, x_BTD: torch.Tensor, where: SequenceContext, budgets: Sequence[int]) -> torch.Tensor:
        q_nope_BTHN, q_rope_BTHR, latent_BTC, k_rope_BTR = self.project(x_BTD, where)
        k_BTHQ, _ = self.expand(latent_BTC, k_rope_BTR)
        scores_BHTT = self._scores(torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1), k_BTHQ, where)
        mass_BHTT = scores_BHTT.softmax(dim=-1).sort(dim=-1, descending=True)[0].cumsum(dim=-1)
        places = torch.tensor(budgets).clamp(max=x_BTD.shape[1]) - 1
        return mass_BHTT[..., places].mean(dim=1)

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        k_BTHQ, v_BTHV = self.expand(latent_BSC, k_rope_BSR)
        scores_BHTT = self._scores(torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1), k_BTHQ, where)
        tokens = scores_BHTT.shape[-1]
        budgets_B = torch.full((len(scores_BHTT),), self.k) if where.budgets_B is None else where.budgets_B
        sorted_BHTT = scores_BHTT.detach().sort(dim=-1, descending=True, stable=True)[0]
        last_B111 = (budgets_B.clamp(max=tokens) - 1).view(-1, 1, 1, 1)
        least_BHT1 = sorted_BHTT.gather(-1, last_B111.expand(*scores_BHTT.shape[:3], 1))
        kept_BHTT = scores_BHTT.masked_fill(scores_BHTT < least_BHT1, -torch.inf)
        return torch.einsum("bhts,bshv->bthv", kept_BHTT.softmax(dim=-1), v_BTHV)

    def _scores(self, q_BTHQ: torch.Tensor, k_BTHQ: torch.Tensor, where: SequenceContext) -> torch.Tensor:
        """Scores of all pairs, -inf where a token does not see the other."""
        batch, tokens = q_BTHQ.shape[:2]
        seen_BTT = torch.ones(tokens, tokens, dtype=torch.bool).tril().expand(batch, -1, -1)
        if where.cu_seqlens is not None:
            places = torch.arange(batch * tokens)
            document_BT = torch.searchsorted(where.cu_seqlens, places, right=True).view(batch, -1)
            seen_BTT = seen_BTT & (document_BT.unsqueeze(2) == document_BT.unsqueeze(1))
        scores_BHTT = torch.einsum("bthq,bshq->bhts", q_BTHQ, k_BTHQ) * self.softmax_scale
        return scores_BHTT.masked_fill(~seen_BTT.unsqueeze(1), -torch.inf)
