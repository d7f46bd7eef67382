"""Attention over chosen positions in plain PyTorch: the latents of a few queries are gathered at a time.

The backward pass gathers them again, and adds the gradients of latents in the order of the queries.

Names: N queries of a tile; B, T, S, H, K, C, E as in the package.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.precision import accumulation_dtype

TILE_VALUES = 1 << 20  # gathered values of a tile, 4 MiB in float32


def mla_sparse(
    q_BTHE: torch.Tensor, e_BSE: torch.Tensor, chosen_BTK: torch.Tensor, latent_width: int, scale: float
) -> torch.Tensor:
    """See `kernels.mla_sparse.mla_sparse`."""
    o_BTHC: torch.Tensor = _Sparse.apply(q_BTHE, e_BSE, chosen_BTK, latent_width, scale)
    return o_BTHC


def tiles(chosen_BTK: torch.Tensor, width: int) -> Iterator[tuple[int, slice]]:
    """(row, queries) of every tile."""
    batch, tokens, count = chosen_BTK.shape
    size = max(1, TILE_VALUES // (count * width))
    for row in range(batch):
        for first in range(0, tokens, size):
            yield row, slice(first, min(tokens, first + size))


def gather(e_SE: torch.Tensor, chosen_NK: torch.Tensor) -> torch.Tensor:
    """Chosen positions [N, K, E], at least float32; any instead of absent ones."""
    found = e_SE.index_select(0, chosen_NK.clamp(min=0).view(-1))
    return found.view(*chosen_NK.shape, -1).to(accumulation_dtype(e_SE.dtype))


def weights(q_NHE: torch.Tensor, gathered_NKE: torch.Tensor, chosen_NK: torch.Tensor, scale: float) -> torch.Tensor:
    """Probabilities [N, H, K]; zero for absent positions."""
    scores_NHK = torch.bmm(q_NHE.to(gathered_NKE.dtype) * scale, gathered_NKE.mT)
    absent_NK = chosen_NK < 0
    if not absent_NK.any():
        return scores_NHK.softmax(-1)
    blind_N11 = absent_NK.all(-1)[:, None, None]
    hidden_N1K = absent_NK.unsqueeze(1)
    return scores_NHK.masked_fill_(hidden_N1K & ~blind_N11, float("-inf")).softmax(-1).masked_fill_(blind_N11, 0.0)


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHE: torch.Tensor, e_BSE: torch.Tensor, chosen_BTK: torch.Tensor, latent_width: int, scale: float
    ) -> torch.Tensor:
        o_BTHC = q_BTHE.new_empty(*q_BTHE.shape[:3], latent_width)
        for row, part in tiles(chosen_BTK, e_BSE.shape[2]):
            gathered_NKE = gather(e_BSE[row], chosen_BTK[row, part])
            weights_NHK = weights(q_BTHE[row, part], gathered_NKE, chosen_BTK[row, part], scale)
            o_BTHC[row, part] = torch.bmm(weights_NHK, gathered_NKE[..., :latent_width]).to(o_BTHC.dtype)
        ctx.save_for_backward(q_BTHE, e_BSE, chosen_BTK)
        ctx.latent_width, ctx.scale = latent_width, scale
        return o_BTHC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_BTHE, e_BSE, chosen_BTK = ctx.saved_tensors
        grad_q, dtype = torch.empty_like(q_BTHE), accumulation_dtype(e_BSE.dtype)
        grad_e = torch.zeros(e_BSE.shape, dtype=dtype, device=e_BSE.device)
        for row, part in tiles(chosen_BTK, e_BSE.shape[2]):
            chosen_NK = chosen_BTK[row, part]
            gathered_NKE, q_NHE = gather(e_BSE[row], chosen_NK), q_BTHE[row, part].to(dtype)
            weights_NHK = weights(q_NHE, gathered_NKE, chosen_NK, ctx.scale)
            grad_o_NHC = gradients[0][row, part].to(dtype)
            grad_weights_NHK = torch.bmm(grad_o_NHC, gathered_NKE[..., : ctx.latent_width].mT)
            along_NH1 = (weights_NHK * grad_weights_NHK).sum(-1, keepdim=True)
            grad_scores_NHK = (grad_weights_NHK - along_NH1).mul_(weights_NHK).mul_(ctx.scale)
            grad_q[row, part] = torch.bmm(grad_scores_NHK, gathered_NKE).to(grad_q.dtype)
            grad_NKE = torch.bmm(grad_scores_NHK.mT, q_NHE)
            grad_NKE[..., : ctx.latent_width] += torch.bmm(weights_NHK.mT, grad_o_NHC)
            grad_e[row].index_add_(0, chosen_NK.clamp(min=0).view(-1), grad_NKE.flatten(0, 1))
        return grad_q, grad_e.to(e_BSE.dtype), None, None, None
