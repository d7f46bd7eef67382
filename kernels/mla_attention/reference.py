"""Causal attention with a full matrix of scores, the reference implementation."""

import torch

from longcat.kernels.mla_attention.documents import DocumentBounds
from longcat.kernels.mla_attention.window import Window, visible
from longcat.kernels.precision import accumulation_dtype


def mla_attention(
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    documents: DocumentBounds | None,
    window: Window | None = None,
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`."""
    scores_BHTS = torch.einsum("bthq,bshq->bhts", q_BTHQ, k_BSHQ).to(accumulation_dtype(q_BTHQ.dtype)) * scale
    seen = causal_mask(q_BTHQ.shape[1], k_BSHQ.shape[1], q_BTHQ.device, window)
    if documents is not None:
        begin_BT = documents.spans_2BT[0].to(q_BTHQ.device)
        same_BTT = begin_BT.unsqueeze(2) == begin_BT.unsqueeze(1)
        place_BT = torch.arange(begin_BT.shape[1], device=begin_BT.device) - begin_BT
        seen = (same_BTT & visible(place_BT.unsqueeze(2), place_BT.unsqueeze(1), window)).unsqueeze(1)
    probabilities_BHTS = scores_BHTS.masked_fill(~seen, float("-inf")).softmax(dim=-1).to(v_BSHV.dtype)
    return torch.einsum("bhts,bshv->bthv", probabilities_BHTS, v_BSHV)


def causal_mask(tokens: int, keys: int, device: torch.device, window: Window | None = None) -> torch.Tensor:
    """True where a query, one of the last `tokens` of `keys` positions, may see a key; bool [T, S]."""
    j_S = torch.arange(keys, device=device)
    return visible(j_S[keys - tokens :].unsqueeze(1), j_S, window)
