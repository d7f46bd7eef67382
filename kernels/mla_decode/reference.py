"""Attention over cached latents, the reference implementation: expand keys and values, then attend."""

from collections.abc import Callable
from typing import Any

import torch

from longcat.kernels.mla_attention import reference


def mla_decode(
    q_nope_BTHN: torch.Tensor,
    q_rope_BTHR: torch.Tensor,
    latent_BSC: torch.Tensor,
    k_rope_BSR: torch.Tensor,
    w_key_HNC: torch.Tensor,
    w_value_HVC: torch.Tensor,
    scale: float,
    lengths_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """See `kernels.mla_decode.mla_decode`."""
    if lengths_B is not None:
        inputs = (q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR)
        return by_row(mla_decode, inputs, (w_key_HNC, w_value_HVC, scale), lengths_B)
    k_nope_BSHN = torch.einsum("bsc,hnc->bshn", latent_BSC, w_key_HNC)
    v_BSHV = torch.einsum("bsc,hvc->bshv", latent_BSC, w_value_HVC)
    shared_BSHR = k_rope_BSR.unsqueeze(2).expand(-1, -1, w_key_HNC.shape[0], -1)
    q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
    return reference.mla_attention(q_BTHQ, torch.cat((k_nope_BSHN, shared_BSHR), dim=-1), v_BSHV, scale, None)


def by_row(
    version: Callable[..., torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
    others: tuple[Any, ...],
    lengths_B: torch.Tensor,
) -> torch.Tensor:
    """Call `version` for every batch row with its queries and the first `lengths_B[b]` cached positions."""
    q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR = inputs
    tokens, value_width = q_nope_BTHN.shape[1], others[1].shape[1]
    rows = []
    for row, length in enumerate(lengths_B.tolist()):
        seeing = min(tokens, length)
        o_BTHV = q_nope_BTHN.new_zeros(1, tokens - seeing, q_nope_BTHN.shape[2], value_width)
        if seeing:
            q = (x[row : row + 1, tokens - seeing :] for x in (q_nope_BTHN, q_rope_BTHR))
            cached = (x[row : row + 1, :length] for x in (latent_BSC, k_rope_BSR))
            o_BTHV = torch.cat((o_BTHV, version(*q, *cached, *others)), dim=1)
        rows.append(o_BTHV)
    return torch.cat(rows) if rows else q_nope_BTHN.new_zeros(0, tokens, q_nope_BTHN.shape[2], value_width)
