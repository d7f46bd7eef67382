"""Attention over cached latents, the plain meaning: expand keys and values, then attend."""

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
) -> torch.Tensor:
    """See `kernels.mla_decode.mla_decode`."""
    k_nope_BSHN = torch.einsum("bsc,hnc->bshn", latent_BSC, w_key_HNC)
    v_BSHV = torch.einsum("bsc,hvc->bshv", latent_BSC, w_value_HVC)
    shared_BSHR = k_rope_BSR.unsqueeze(2).expand(-1, -1, w_key_HNC.shape[0], -1)
    q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
    return reference.mla_attention(q_BTHQ, torch.cat((k_nope_BSHN, shared_BSHR), dim=-1), v_BSHV, scale, None)
