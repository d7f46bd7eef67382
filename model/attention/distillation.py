"""Loss by which an indexer learns to predict attention (LongCat Sparse Attention, arXiv 2608.01662, eq. 1 to 5).

    L = sum_t KL(p_t || softmax(I_t)),   p_t = mean over heads of the attention probabilities, a constant

over all positions that a token sees (warm-up), or renormalised over those that it attends to (sparse). The gradient of
I_ts is softmax(I_t)_s - p_ts, so the gradients of the indexer are found in the forward pass, tile by tile.

Names: B batch, T tokens, S positions, N queries of a tile, K positions of a tile, J heads and I width of an indexer, H
heads and E width of attention on latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.mla_sparse import attention_mass
from longcat.kernels.precision import accumulation_dtype
from longcat.model.attention.indexer import Indexed

TILE_VALUES = 1 << 22


class Target(NamedTuple):
    """Attention that is predicted: absorbed queries, cached positions, softmax scale, and what a token sees.

    chosen_BTK: positions that it attends to; None: all from the start of its document, starts_BT, to itself.
    """

    q_BTHE: torch.Tensor
    e_BSE: torch.Tensor
    scale: float
    chosen_BTK: torch.Tensor | None
    starts_BT: torch.Tensor


def distillation_loss(index: Indexed, target: Target) -> torch.Tensor:
    """Sum over all tokens, a scalar with gradients of the indexer alone."""
    loss: torch.Tensor = _Distillation.apply(*index, target)
    return loss


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTJI: torch.Tensor, k_BTI: torch.Tensor, w_BTJ: torch.Tensor, target: Target
    ) -> torch.Tensor:
        grads = [torch.zeros_like(x, dtype=accumulation_dtype(x.dtype)) for x in (q_BTJI, k_BTI, w_BTJ)]
        loss = torch.zeros((), dtype=accumulation_dtype(q_BTJI.dtype), device=q_BTJI.device)
        for row, part in _tiles(target):
            mass_NK, chosen_NK = _mass(target, row, part)
            k_XI = k_BTI[row, : part.stop] if chosen_NK is None else k_BTI[row][chosen_NK.clamp(min=0)]
            with torch.enable_grad():
                own = [x.detach().requires_grad_() for x in (q_BTJI[row, part], k_XI, w_BTJ[row, part])]
                loss_of_tile = _divergence(_scores(*own), mass_NK)
                found = torch.autograd.grad(loss_of_tile, own)
            loss += loss_of_tile.detach()
            grads[0][row, part], grads[2][row, part] = found[0], found[2]
            if chosen_NK is None:
                grads[1][row, : part.stop] += found[1]
            else:
                grads[1][row].index_add_(0, chosen_NK.clamp(min=0).view(-1), found[1].flatten(0, 1).to(grads[1].dtype))
        ctx.save_for_backward(*(grad.to(x.dtype) for grad, x in zip(grads, (q_BTJI, k_BTI, w_BTJ), strict=True)))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return *(grad * gradients[0].to(grad.dtype) for grad in ctx.saved_tensors), None


def _tiles(target: Target) -> Iterator[tuple[int, slice]]:
    batch, tokens, heads, width = target.q_BTHE.shape
    if target.chosen_BTK is None:
        values = target.e_BSE.shape[1] * heads
    else:
        values = target.chosen_BTK.shape[2] * max(heads, width)
    size = max(1, TILE_VALUES // values)
    for row in range(batch):
        for first in range(0, tokens, size):
            yield row, slice(first, min(tokens, first + size))


@torch.no_grad()
def _mass(target: Target, row: int, part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Predicted probabilities [N, K], -1 for positions that are not seen, and these positions unless they are 0 to
    K - 1.
    """
    q_NHE, e_SE = target.q_BTHE[row, part], target.e_BSE[row]
    if target.chosen_BTK is not None:
        chosen_NK = target.chosen_BTK[row, part]
        return attention_mass(q_NHE, e_SE, chosen_NK, target.scale).masked_fill_(chosen_NK < 0, -1.0), chosen_NK
    return dense_mass(q_NHE, e_SE[: part.stop], target.scale, part.start, target.starts_BT[row, part]), None


def dense_mass(
    q_NHE: torch.Tensor, e_SE: torch.Tensor, scale: float, before: int, starts_N: torch.Tensor
) -> torch.Tensor:
    """Mean over heads of the probabilities [N, S] of queries at positions `before` and on, -1 where one is blind."""
    dtype = accumulation_dtype(q_NHE.dtype)
    scores_NHS = torch.einsum("nhe,se->nhs", q_NHE.to(dtype), e_SE.to(dtype)) * scale
    position_S = torch.arange(e_SE.shape[0], device=e_SE.device)
    at_N1 = torch.arange(before, before + q_NHE.shape[0], device=e_SE.device).unsqueeze(1)
    hidden_NS = (position_S > at_N1) | (position_S < starts_N.unsqueeze(1))
    mass_NS = scores_NHS.masked_fill_(hidden_NS.unsqueeze(1), float("-inf")).softmax(-1).mean(1)
    return mass_NS.masked_fill_(hidden_NS, -1.0)


def _scores(q_NJI: torch.Tensor, k_XI: torch.Tensor, w_NJ: torch.Tensor) -> torch.Tensor:
    """Scores [N, K] of keys [K, I] that all queries have in common, or of own ones [N, K, I]."""
    dtype = accumulation_dtype(q_NJI.dtype)
    keys = "ki" if k_XI.dim() == 2 else "nki"
    products_NJK = torch.einsum(f"nji,{keys}->njk", q_NJI.to(dtype), k_XI.to(dtype)).relu()
    return torch.einsum("nj,njk->nk", w_NJ.to(dtype), products_NJK)


def _divergence(scores_NK: torch.Tensor, mass_NK: torch.Tensor) -> torch.Tensor:
    """Sum over queries of KL(mass || softmax(scores)) over the positions with a mass of at least zero."""
    log_NK = scores_NK.masked_fill(mass_NK < 0, float("-inf")).log_softmax(-1).masked_fill(mass_NK < 0, 0.0)
    mass_NK = mass_NK.clamp(min=0)
    return (torch.special.xlogy(mass_NK, mass_NK) - mass_NK * log_NK).sum()
