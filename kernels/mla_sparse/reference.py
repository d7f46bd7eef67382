"""Attention with a mask of the chosen positions, the reference implementation."""

import torch

from longcat.kernels.precision import accumulation_dtype


def mla_sparse(
    q_BTHE: torch.Tensor, e_BSE: torch.Tensor, chosen_BTK: torch.Tensor, latent_width: int, scale: float
) -> torch.Tensor:
    """See `kernels.mla_sparse.mla_sparse`."""
    batch, tokens, keys = *q_BTHE.shape[:2], e_BSE.shape[1]
    seen_BTS = torch.zeros(batch, tokens, keys + 1, dtype=torch.bool, device=q_BTHE.device)
    seen_BTS.scatter_(2, torch.where(chosen_BTK < 0, keys, chosen_BTK), True)
    hidden_BT1S = ~seen_BTS[:, :, None, :keys]
    scores_BTHS = torch.einsum("bthe,bse->bths", q_BTHE, e_BSE).to(accumulation_dtype(q_BTHE.dtype)) * scale
    blind_BT11 = hidden_BT1S.all(-1, keepdim=True)
    masked_BTHS = scores_BTHS.masked_fill(hidden_BT1S & ~blind_BT11, float("-inf"))
    weights_BTHS = masked_BTHS.softmax(-1).masked_fill(blind_BT11, 0.0)
    return torch.einsum("bths,bsc->bthc", weights_BTHS.to(e_BSE.dtype), e_BSE[..., :latent_width])
