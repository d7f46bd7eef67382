"""Attention with short documents in groups of similar length: a call a group instead of a call a document."""

from collections.abc import Callable

import torch

from longcat.kernels.mla_attention.documents import DocumentBounds, document_bounds

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, DocumentBounds | None], torch.Tensor]


def mla_attention(
    attend: Attention,
    q_BTHQ: torch.Tensor,
    k_BTHQ: torch.Tensor,
    v_BTHV: torch.Tensor,
    scale: float,
    documents: DocumentBounds,
) -> torch.Tensor:
    """`attend` on every group of short documents, as rows of one document each, and on the other documents."""
    groups = documents.groups
    parts = zip(*(groups.divide(x.flatten(0, 1)) for x in (q_BTHQ, k_BTHQ, v_BTHV)), groups.bounds, strict=True)
    outputs = []
    for q, k, v, cu_seqlens in parts:
        long = None if cu_seqlens is None else document_bounds(cu_seqlens, *q.shape[:2])
        outputs.append(attend(q, k, v, scale, long).flatten(0, 1))
    return groups.join(outputs).unflatten(0, q_BTHQ.shape[:2])
