"""Part of every row that a process holds, with targets and positions from the whole row.

With c processes per row, it is split into 2c chunks and process r takes chunks r and 2c - 1 - r: late chunks attend to
more keys than early ones, and each pair to the same number.

Names: B batch, T tokens of the part, S tokens of a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from longcat.model.attention.shared_context import chunks_of
from longcat.model.embeddings.base import previous_ids
from longcat.model.mtp import targets_after_next


class Rows(NamedTuple):
    """One micro batch in the form of `LongcatFlash.loss` and `mtp_loss_of`.

    positions_T: None for whole rows. cu_seqlens: bounds in the whole rows, also for parts of rows. previous_ids_BTN:
        None unless the embedding needs earlier ids (`model.embeddings.base`). budgets_B: None unless set in the batch;
        by layer [L, B] if they are there.
    """

    ids_BT: torch.Tensor
    targets_BT: torch.Tensor
    next_ids_BT: torch.Tensor
    next_targets_BT: torch.Tensor
    cu_seqlens: torch.Tensor | None = None
    positions_T: torch.Tensor | None = None
    previous_ids_BTN: torch.Tensor | None = None
    budgets_B: torch.Tensor | None = None


def local_rows(
    ids_BT: torch.Tensor,
    targets_BT: torch.Tensor,
    cu_seqlens: torch.Tensor | None = None,
    *,
    context_rank: int = 0,
    context_size: int = 1,
    look_back: int = 0,
    masked: bool = True,
) -> Rows:
    """Part of whole rows for one process; every token keeps its target, next and earlier tokens.

    `look_back`: earlier ids that the embedding needs. Without `masked`, attention and embedding cross the bounds of
    documents, but multi-token prediction does not.
    """
    next_targets_BT = targets_after_next(targets_BT, cu_seqlens)
    cu_seqlens = cu_seqlens if masked else None
    # The last position of a row gets a wrong next token, but has no target and no position attends to it.
    whole = Rows(ids_BT, targets_BT, ids_BT.roll(-1, dims=1), next_targets_BT, cu_seqlens)
    if look_back:
        whole = whole._replace(previous_ids_BTN=previous_ids(ids_BT, look_back, cu_seqlens))
    if context_size == 1:
        return whole
    length = ids_BT.shape[1] // (2 * context_size)
    starts = [chunk * length for chunk in chunks_of(context_rank, context_size)]
    positions_T = torch.cat([torch.arange(start, start + length, device=ids_BT.device) for start in starts])
    ids_BT, targets_BT, next_ids_BT, next_targets_BT = (x_BT.index_select(1, positions_T) for x_BT in whole[:4])
    before_BTN = whole.previous_ids_BTN
    if before_BTN is not None:
        before_BTN = before_BTN.index_select(1, positions_T)
    return Rows(ids_BT, targets_BT, next_ids_BT, next_targets_BT, cu_seqlens, positions_T, before_BTN)
