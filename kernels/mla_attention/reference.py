"""Causal attention with a full matrix of scores, the reference implementation."""

import torch

from longcat.kernels.mla_attention.documents import DocumentBounds
from longcat.kernels.precision import accumulation_dtype


def mla_attention(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, documents: DocumentBounds | None
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`."""
    scores_BHTS = torch.einsum("bthq,bshq->bhts", q_BTHQ, k_BSHQ).to(accumulation_dtype(q_BTHQ.dtype)) * scale
    visible = causal_mask(q_BTHQ.shape[1], k_BSHQ.shape[1], q_BTHQ.device)
    if documents is not None:
        lengths_N = torch.tensor(documents.lengths, device=q_BTHQ.device)
        index_N = torch.arange(lengths_N.shape[0], device=q_BTHQ.device)
        document_BT = index_N.repeat_interleave(lengths_N).view(q_BTHQ.shape[:2])
        visible = visible & (document_BT[:, None, :, None] == document_BT[:, None, None, :])
    probabilities_BHTS = scores_BHTS.masked_fill(~visible, float("-inf")).softmax(dim=-1).to(v_BSHV.dtype)
    return torch.einsum("bhts,bshv->bthv", probabilities_BHTS, v_BSHV)


def causal_mask(tokens: int, keys: int, device: torch.device) -> torch.Tensor:
    """True where a query, one of the last `tokens` of `keys` positions, may see a key; bool [T, S]."""
    return torch.ones(tokens, keys, dtype=torch.bool, device=device).tril(keys - tokens)
