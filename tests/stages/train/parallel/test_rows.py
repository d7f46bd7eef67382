"""Parts of rows for each process of a context parallel group."""

from __future__ import annotations

import torch

from longcat.model.mtp import targets_after_next
from longcat.stages.train.parallel.rows import Rows, local_rows


def parts(size: int) -> tuple[Rows, list[Rows]]:
    """Two whole rows of 16 tokens with documents, and the parts of `size` processes."""
    ids = torch.arange(2 * 17).view(2, 17)
    bounds = torch.tensor([0, 3, 8, 20, 32])
    whole = (ids[:, :-1], ids[:, 1:], bounds)
    return local_rows(*whole), [local_rows(*whole, context_rank=rank, context_size=size) for rank in range(size)]


def test_every_process_has_an_early_and_a_late_chunk() -> None:
    _, (first, second) = parts(2)
    assert first.positions_T is not None and second.positions_T is not None
    assert first.positions_T.tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    assert second.positions_T.tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert first.ids_BT[1].tolist() == [17, 18, 19, 20, 29, 30, 31, 32]


def test_parts_make_up_the_whole_rows() -> None:
    whole, pieces = parts(4)
    places = torch.cat([piece.positions_T for piece in pieces if piece.positions_T is not None])
    assert sorted(places.tolist()) == list(range(16))
    for name in ("ids_BT", "targets_BT", "next_ids_BT", "next_targets_BT"):
        joined = torch.cat([getattr(piece, name) for piece in pieces], dim=1)
        assert torch.equal(joined, getattr(whole, name)[:, places])
    assert all(piece.cu_seqlens is whole.cu_seqlens for piece in pieces)


def test_next_tokens_and_their_targets_cross_the_border_of_a_chunk() -> None:
    _, (first, _) = parts(2)
    # Position 3 ends the first chunk; the tokens after it are in the other process's part.
    assert first.next_ids_BT[0, 3] == first.ids_BT[0, 3] + 1
    assert first.next_targets_BT[0, 3] == first.ids_BT[0, 3] + 2


def test_whole_rows_have_the_targets_that_the_model_would_shift() -> None:
    whole, _ = parts(2)
    assert torch.equal(whole.next_targets_BT, targets_after_next(whole.targets_BT, whole.cu_seqlens))
    assert whole.positions_T is None


def test_earlier_ids_cross_the_border_of_a_chunk_but_not_of_a_document() -> None:
    ids = torch.arange(16).view(1, 16)
    whole = (ids, ids + 1, torch.tensor([0, 3, 16]))
    first, second = (local_rows(*whole, context_rank=rank, context_size=2, look_back=2) for rank in range(2))
    assert second.ids_BT[0].tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert second.previous_ids_BTN is not None and first.previous_ids_BTN is not None
    # Position 2 is in the other process's part; the document begins at 3.
    assert second.previous_ids_BTN[0, :3].tolist() == [[-1, 3], [3, 4], [4, 5]]
    assert first.previous_ids_BTN[0, 2:6].tolist() == [[0, 1], [-1, -1], [10, 11], [11, 12]]
    unmasked = local_rows(*whole, context_rank=0, context_size=2, look_back=2, masked=False)
    assert unmasked.previous_ids_BTN is not None
    assert unmasked.previous_ids_BTN[0, 3].tolist() == [1, 2]
    assert unmasked.cu_seqlens is None
    assert torch.equal(unmasked.next_targets_BT, first.next_targets_BT)
