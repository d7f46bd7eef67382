"""The lightning indexer of LongCat Sparse Attention (arXiv 2608.01662; DeepSeek-V3.2-Exp): one key head, J query heads.

    q_tj = W_q cQ_t          k_s = RMSNorm(W_k h_s)          w_t = W_w h_t / sqrt(J I)
    I_ts = sum_j w_tj ReLU(q_tj . k_s)

cQ is the query latent of latent attention, without its factor. The first dimensions of queries and keys, as many as
the rotary ones of the attention, are rotated. All inputs are detached: only the distillation loss trains an indexer.

Names: B batch, T tokens, D hidden, L query latent, J heads, I width of a head, R rotary width, P = R / 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from longcat.kernels.rope import rope
from longcat.model.linear import Linear
from longcat.model.norm import RMSNorm

KEY_NORM_EPS = 1e-6


class Indexed(NamedTuple):
    """q_BTJI, k_BTI, w_BTJ: queries, keys and weights of the scores; see `kernels.index_scores`."""

    q_BTJI: torch.Tensor
    k_BTI: torch.Tensor
    w_BTJ: torch.Tensor


class Indexer(nn.Module):
    """Queries, keys and weights of an indexer; `interleaved`: whether rotary pairs are neighbours, or half a width
    apart.
    """

    def __init__(
        self, hidden_size: int, query_width: int, heads: int, width: int, rope_width: int, *, interleaved: bool
    ) -> None:
        super().__init__()
        self.heads, self.width, self.rope_width, self.interleaved = heads, width, rope_width, interleaved
        self.wq_b = Linear(query_width, heads * width)
        self.wk = Linear(hidden_size, width)
        self.k_norm = RMSNorm(width, KEY_NORM_EPS)
        self.weights_proj = Linear(hidden_size, heads)

    def forward(self, x_BTD: torch.Tensor, latent_BTL: torch.Tensor, angles_TP: torch.Tensor) -> Indexed:
        """From hidden states and query latents."""
        x_BTD, latent_BTL = x_BTD.detach(), latent_BTL.detach()
        q_BTJI = self.rotated(self.wq_b(latent_BTL).unflatten(-1, (self.heads, self.width)), angles_TP)
        w_BTJ = self.weights_proj(x_BTD) * (self.heads * self.width) ** -0.5
        return Indexed(q_BTJI, self.keys(x_BTD, angles_TP), w_BTJ)

    def keys(self, x_BTD: torch.Tensor, angles_TP: torch.Tensor) -> torch.Tensor:
        """Keys [B, T, I]."""
        return self.rotated(self.k_norm(self.wk(x_BTD.detach())).unsqueeze(2), angles_TP).squeeze(2)

    def rotated(self, x_BTJI: torch.Tensor, angles_TP: torch.Tensor) -> torch.Tensor:
        """With the rotary part turned. The order of its dimensions is that of neighbouring pairs, for queries and keys
        alike, which their products do not show.
        """
        turned_BTJR, rest = x_BTJI.split((self.rope_width, self.width - self.rope_width), dim=-1)
        if not self.interleaved:
            turned_BTJR = turned_BTJR.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        return torch.cat((rope(turned_BTJR.contiguous(), angles_TP), rest), dim=-1)
