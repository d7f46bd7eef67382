"""Causal attention with a full matrix of scores, the plain meaning."""

import torch

from longcat.kernels.precision import accumulation_dtype


def mla_attention(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, lengths: list[int] | None
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`; `lengths` are those of `document_lengths`."""
    scores_BHTS = torch.einsum("bthq,bshq->bhts", q_BTHQ, k_BSHQ).to(accumulation_dtype(q_BTHQ.dtype)) * scale
    visible = causal_mask(q_BTHQ.shape[1], k_BSHQ.shape[1], q_BTHQ.device)
    if lengths is not None:
        documents = torch.arange(len(lengths), device=q_BTHQ.device)
        document_BT = documents.repeat_interleave(torch.tensor(lengths, device=q_BTHQ.device)).view(q_BTHQ.shape[:2])
        visible = visible & (document_BT[:, None, :, None] == document_BT[:, None, None, :])
    probabilities_BHTS = scores_BHTS.masked_fill(~visible, float("-inf")).softmax(dim=-1).to(v_BSHV.dtype)
    return torch.einsum("bhts,bshv->bthv", probabilities_BHTS, v_BSHV)


def causal_mask(tokens: int, keys: int, device: torch.device) -> torch.Tensor:
    """True where a query, one of the last `tokens` of `keys` positions, may see a key; bool [T, S]."""
    return torch.ones(tokens, keys, dtype=torch.bool, device=device).tril(keys - tokens)
