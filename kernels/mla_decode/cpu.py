"""Attention over cached latents with absorbed projections: the cache is never expanded.

`q . (w_key c) = (w_key^T q) . c` and `sum_s p_s (w_value c_s) = w_value (sum_s p_s c_s)`, so both projections act on
the few queries instead of on the many positions.

Additional names: Y batch rows and queries together, X queries and heads together.
"""

import torch

from longcat.kernels.mla_attention.reference import causal_mask
from longcat.kernels.mla_decode import reference
from longcat.kernels.precision import accumulation_dtype


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
        return reference.by_row(mla_decode, inputs, (w_key_HNC, w_value_HVC, scale), lengths_B)
    batch, tokens, heads, nope_width = q_nope_BTHN.shape
    q_HYN = q_nope_BTHN.reshape(batch * tokens, heads, nope_width).transpose(0, 1)
    # Heads share keys and values here, so queries of all heads form one matrix per batch row.
    q_latent_BXC = torch.bmm(q_HYN, w_key_HNC).transpose(0, 1).reshape(batch, tokens * heads, -1)
    q_rope_BXR = q_rope_BTHR.reshape(batch, tokens * heads, -1)
    if tokens == 1:  # few columns: with the cache on the left, the library reads it twice as fast
        scores_BSX = torch.bmm(latent_BSC, q_latent_BXC.mT)
        scores_BXS = scores_BSX.baddbmm_(k_rope_BSR, q_rope_BXR.mT, beta=scale, alpha=scale).mT.contiguous()
    else:
        scores_BXS = torch.bmm(q_latent_BXC, latent_BSC.mT)
        scores_BXS.baddbmm_(q_rope_BXR, k_rope_BSR.mT, beta=scale, alpha=scale)
    wide_BXS = scores_BXS.to(accumulation_dtype(scores_BXS.dtype))
    if tokens > 1:
        hidden_TS = ~causal_mask(tokens, latent_BSC.shape[1], latent_BSC.device)
        wide_BXS.view(batch, tokens, heads, -1).masked_fill_(hidden_TS.unsqueeze(1), float("-inf"))
    probabilities_BXS = wide_BXS.softmax(dim=-1).to(latent_BSC.dtype)
    mixed_BXC = torch.bmm(probabilities_BXS, latent_BSC)
    mixed_YHC = mixed_BXC.view(batch * tokens, heads, -1)
    if batch * tokens == 1:  # with the matrices on the left, no copy is needed
        return torch.bmm(w_value_HVC, mixed_YHC.permute(1, 2, 0)).view(1, 1, heads, -1)
    o_HYV = torch.bmm(mixed_YHC.transpose(0, 1), w_value_HVC.mT)
    return o_HYV.transpose(0, 1).reshape(batch, tokens, heads, w_value_HVC.shape[1])
