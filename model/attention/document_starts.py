"""First position of the document of every token.

Names: B batch, T tokens.
"""

from __future__ import annotations

import torch

from longcat.model.attention.base import SequenceContext


def document_starts(where: SequenceContext, batch: int, tokens: int, device: torch.device) -> torch.Tensor:
    """Positions in the row, int64 [B, T]; zeros if rows are whole documents."""
    if where.documents is None or where.layout is not None:
        return torch.zeros(batch, tokens, dtype=torch.int64, device=device)
    lengths_D = torch.tensor(where.documents.lengths, dtype=torch.int64, device=device)
    starts_D = lengths_D.cumsum(0) - lengths_D
    starts_BT = starts_D.repeat_interleave(lengths_D).view(batch, tokens)
    rows_B1 = tokens * torch.arange(batch, device=device).unsqueeze(1)
    return (starts_BT - rows_B1).clamp(min=0)
