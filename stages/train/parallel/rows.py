"""The part of every row that a process holds, with all that belongs to its tokens taken from the whole row.

With c processes to a row, it is cut into 2c chunks and process r takes the chunks r and 2c - 1 - r: a late chunk
attends to more keys than an early one, and every such pair to equally many.

Names: B batch, T tokens of the part, S tokens of a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from longcat.model.mtp import targets_after_next


class Rows(NamedTuple):
    """One micro batch as `LongcatFlash.loss` and `mtp_loss_of` take it.

    positions_T are None for whole rows; cu_seqlens are those of the whole rows, for parts of rows too.
    """

    ids_BT: torch.Tensor
    targets_BT: torch.Tensor
    next_ids_BT: torch.Tensor
    next_targets_BT: torch.Tensor
    cu_seqlens: torch.Tensor | None = None
    positions_T: torch.Tensor | None = None


def chunks_of(rank: int, size: int) -> tuple[int, int]:
    """The two chunks, of 2 * `size`, that process `rank` of `size` holds of every row."""
    return rank, 2 * size - 1 - rank


def local_rows(
    ids_BT: torch.Tensor,
    targets_BT: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    *,
    context_rank: int = 0,
    context_size: int = 1,
) -> Rows:
    """The part of whole rows that one process computes; every token keeps its own target and next token."""
    # The last position of a row gets the wrong next token, has no target, and is seen by no other position.
    whole = Rows(ids_BT, targets_BT, ids_BT.roll(-1, dims=1), targets_after_next(targets_BT, cu_seqlens), cu_seqlens)
    if context_size == 1:
        return whole
    length = ids_BT.shape[1] // (2 * context_size)
    starts = [chunk * length for chunk in chunks_of(context_rank, context_size)]
    positions_T = torch.cat([torch.arange(start, start + length, device=ids_BT.device) for start in starts])
    ids_BT, targets_BT, next_ids_BT, next_targets_BT = (x_BT.index_select(1, positions_T) for x_BT in whole[:4])
    return Rows(ids_BT, targets_BT, next_ids_BT, next_targets_BT, cu_seqlens, positions_T)
