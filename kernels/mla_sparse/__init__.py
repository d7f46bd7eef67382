"""Attention of every query over positions of its own, on latents with the projections absorbed (interface of FlashMLA's
sparse kernels; DeepSeek-V3.2-Exp).

    o_th = sum_{s in S_t} softmax_s(scale * q_th . e_s) e_s[:C]

Names: B rows, T queries, S positions, H heads, K chosen positions, C latent width, E width of a position (latent, then
rotary key).
"""

import torch

from longcat.kernels.mla_sparse import cpu, reference
from longcat.kernels.mla_sparse.mass import attention_mass
from longcat.kernels.select import KernelError, deferred, select

__all__ = ["attention_mass", "mla_sparse"]

VERSIONS = {
    "reference": reference.mla_sparse,
    "cpu": cpu.mla_sparse,
    "triton": deferred("longcat.kernels.mla_sparse.triton", "mla_sparse"),
}


def mla_sparse(
    q_BTHE: torch.Tensor, e_BSE: torch.Tensor, chosen_BTK: torch.Tensor, latent_width: int, scale: float
) -> torch.Tensor:
    """Returns o_BTHC, in the dtype of the queries.

    chosen: int64, different positions of the query's row, and -1 after the last of them; a query without any gives
    zeros. Positions get no gradient; the gradients of queries and latents are the same bits in every run.

    Raises:
        KernelError: shapes that do not match.
    """
    batch, tokens, _, width = q_BTHE.shape
    if e_BSE.shape[0] != batch or e_BSE.shape[2] != width or chosen_BTK.shape[:2] != (batch, tokens):
        raise KernelError(
            f"mla_sparse: queries {tuple(q_BTHE.shape)} do not fit positions {tuple(e_BSE.shape)} and a choice "
            f"{tuple(chosen_BTK.shape)}"
        )
    if not 0 < latent_width <= width:
        raise KernelError(f"mla_sparse: the latent width must be from 1 to {width}, got {latent_width}")
    if not q_BTHE.numel() or not chosen_BTK.shape[2] or not e_BSE.numel():
        return (q_BTHE[..., :latent_width] * 0) + e_BSE.sum() * 0
    version = select("mla_sparse", VERSIONS, q_BTHE.device)
    return version(q_BTHE, e_BSE, chosen_BTK, latent_width, scale)
