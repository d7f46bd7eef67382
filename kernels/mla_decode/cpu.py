"""Attention over cached latents with absorbed projections: the cache is read as it is, never expanded.

`q . (w_key c) = (w_key^T q) . c` and `sum_s p_s (w_value c_s) = w_value (sum_s p_s c_s)`, so both projections act on
the few queries instead of on the many positions.
"""

import torch

from kernels.mla_attention.reference import causal_mask
from kernels.precision import accumulation_dtype


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
    batch, tokens, heads, _ = q_nope_BTHN.shape
    q_latent_BTHC = torch.einsum("bthn,hnc->bthc", q_nope_BTHN, w_key_HNC)
    # Heads share keys and values here, so queries of all heads form one matrix a batch row.
    scores_BXS = torch.bmm(q_latent_BTHC.flatten(1, 2), latent_BSC.transpose(1, 2))
    scores_BXS = torch.baddbmm(scores_BXS, q_rope_BTHR.flatten(1, 2), k_rope_BSR.transpose(1, 2))
    wide_BTHS = scores_BXS.to(accumulation_dtype(scores_BXS.dtype)).mul_(scale).view(batch, tokens, heads, -1)
    visible_TS = causal_mask(tokens, latent_BSC.shape[1], latent_BSC.device)
    wide_BTHS = wide_BTHS.masked_fill(~visible_TS.unsqueeze(1), float("-inf"))
    probabilities_BXS = wide_BTHS.softmax(dim=-1).to(latent_BSC.dtype).flatten(1, 2)
    mixed_BTHC = torch.bmm(probabilities_BXS, latent_BSC).view(batch, tokens, heads, -1)
    return torch.einsum("bthc,hvc->bthv", mixed_BTHC, w_value_HVC)
