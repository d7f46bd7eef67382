"""Interface of embeddings: vectors from a token id, or from it and the ids before it.

Names: B batch, T tokens, D hidden, N ids before a token, S ids of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn


class Embedding(nn.Module, ABC):
    """Base of embedding kinds. `weight` [V, D] is the token table, shared by a tied output projection."""

    # Number of previous ids that a token's vector depends on.
    look_back: int = 0
    weight: nn.Parameter

    @abstractmethod
    def forward(self, input_ids_BT: torch.Tensor, previous_ids_BTN: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors [B, T, D]; `previous_ids_BTN` from `previous_ids`, None if no earlier ids are needed."""


def previous_ids(
    ids_BS: torch.Tensor, count: int, cu_seqlens: torch.Tensor | None = None, first: int = 0
) -> torch.Tensor:
    """The `count` ids before every token from position `first` of the rows on, int64 [B, S - first, N].

    The nearest comes last; -1 if there is none: before a row and, with `cu_seqlens` (bounds of documents in
    the flattened B * S ids), before a token's document.
    """
    batch, length = ids_BS.shape
    padded_BX = torch.nn.functional.pad(ids_BS, (count, 0), value=-1)
    previous_BSN = padded_BX[:, :-1].unfold(1, count, 1) if count else ids_BS.new_empty(batch, length, 0)
    if cu_seqlens is not None and count:
        previous_BSN = previous_BSN.masked_fill(_outside(cu_seqlens, batch, length, count, ids_BS.device), -1)
    return previous_BSN[:, first:]


def _outside(cu_seqlens: torch.Tensor, batch: int, length: int, count: int, device: torch.device) -> torch.Tensor:
    """Mask of the `count` positions before every token that are outside its document, bool [B, S, N]."""
    places_X = torch.arange(batch * length, device=device)
    bounds = cu_seqlens.to(device=device, dtype=torch.int64)
    starts_X = bounds[torch.searchsorted(bounds, places_X, right=True) - 1]
    back_N = torch.arange(count, 0, -1, device=device)
    return (back_N > (places_X - starts_X).unsqueeze(-1)).view(batch, length, count)
