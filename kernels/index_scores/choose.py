"""Exact choice of the greatest scores, in tiles of queries; ties go to the lowest position.

Names: B rows, T queries, S keys, N queries of a tile, C candidates, K chosen positions, D documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from longcat.kernels.mla_attention import DocumentBounds

ABSENT = -1  # instead of a position, where a query has fewer
TILE_VALUES = 1 << 22  # scores that exist at a time, 16 MiB in float32
GROUPS = 4  # groups of keys for every chosen one, in the first look at long rows

Scores = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Always(NamedTuple):
    """Number of first and last positions that every query attends to, whatever their scores; the last includes it."""

    first: int = 0
    last: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.first + self.last


class _Piece(NamedTuple):
    """Queries of a document: tokens `begin` to `end - 1` of the row, which see the keys from `start` on."""

    start: int
    begin: int
    end: int


def choose_rows(
    scores: Scores,
    inputs: Inputs,
    count: int,
    always: Always,
    documents: DocumentBounds | None,
    budgets_B: torch.Tensor | None,
) -> torch.Tensor:
    """See `kernels.index_scores.index_topk`; `scores` are those of a tile."""
    q_BTJI, k_BSI, w_BTJ = inputs
    batch, tokens, keys = q_BTJI.shape[0], q_BTJI.shape[1], k_BSI.shape[1]
    counts = row_counts(count, always, batch, budgets_B)
    chosen_BTK = torch.full((batch, tokens, max(counts, default=1)), ABSENT, dtype=torch.int64, device=q_BTJI.device)
    for row, pieces in enumerate(_pieces(documents, batch, tokens, keys)):
        for piece in pieces:
            inputs_of_row = q_BTJI[row], k_BSI[row], w_BTJ[row]
            _choose_piece(scores, inputs_of_row, piece, keys - tokens, counts[row], always, chosen_BTK[row])
    return chosen_BTK


def row_counts(count: int, always: Always, batch: int, budgets_B: torch.Tensor | None) -> list[int]:
    """Positions that a query of every row chooses; never fewer than those that are always chosen."""
    if budgets_B is None:
        return [count] * batch
    return [max(int(budget), always.total, 1) for budget in budgets_B.tolist()]


def _pieces(documents: DocumentBounds | None, batch: int, tokens: int, keys: int) -> Iterator[list[_Piece]]:
    """Documents of every row; without them, one whose last positions are the queries."""
    if documents is None:
        yield from ([_Piece(0, 0, tokens)] for _ in range(batch))
        return
    bounds = {*itertools.accumulate(documents.lengths, initial=0), *range(0, batch * tokens + 1, tokens)}
    spans = list(itertools.pairwise(sorted(bounds)))
    for row in range(batch):
        own = [(a - row * tokens, b - row * tokens) for a, b in spans if a // tokens == row]
        yield [_Piece(a, a, b) for a, b in own]


def _choose_piece(
    scores: Scores,
    row: Inputs,
    piece: _Piece,
    cached: int,
    count: int,
    always: Always,
    chosen_TK: torch.Tensor,
) -> None:
    """Write the choice of the piece's queries; `cached`: keys of the row before its first query."""
    q_TJI, k_SI, w_TJ = row
    first_seen = cached + piece.begin - piece.start + 1  # positions that the first query sees
    free = min(piece.end, piece.begin + max(0, count - first_seen + 1))  # queries before it see at most `count`
    if free > piece.begin:
        chosen_TK[piece.begin : free, :count] = _all_seen(first_seen, free - piece.begin, count, piece.start, q_TJI)
    for begin in _tiles(free, piece.end, cached + piece.end - piece.start):
        end = min(piece.end, begin + max(1, TILE_VALUES // (cached + piece.end - piece.start)))
        seen = cached + end - piece.start
        scores_NS = scores(q_TJI[begin:end], k_SI[piece.start : piece.start + seen], w_TJ[begin:end])
        restrict(scores_NS, seen - (end - begin), always)
        chosen_TK[begin:end, :count] = largest(scores_NS, count) + piece.start


def _tiles(begin: int, end: int, keys: int) -> range:
    return range(begin, end, max(1, TILE_VALUES // max(keys, 1)))


def _all_seen(first_seen: int, queries: int, count: int, start: int, like: torch.Tensor) -> torch.Tensor:
    position_K = torch.arange(count, device=like.device)
    seen_N1 = torch.arange(first_seen, first_seen + queries, device=like.device).unsqueeze(1)
    return torch.where(position_K < seen_N1, position_K + start, ABSENT)


def restrict(scores_NS: torch.Tensor, before: int, always: Always) -> None:
    """In place: infinity for positions that are always chosen, its negative for later ones; query n is at
    `before` + n.
    """
    at_N1 = torch.arange(before, before + scores_NS.shape[0], device=scores_NS.device).unsqueeze(1)
    from_, to = max(0, before - always.last + 1), scores_NS.shape[1]
    scores_NS[:, : always.first] = float("inf")
    position_W = torch.arange(from_, to, device=scores_NS.device)
    ends_NW = scores_NS[:, from_:]
    if always.last:
        ends_NW.masked_fill_(position_W > at_N1 - always.last, float("inf"))
    ends_NW.masked_fill_(position_W > at_N1, float("-inf"))


def largest(scores_NS: torch.Tensor, count: int) -> torch.Tensor:
    """Positions [N, K] of the `count` greatest scores of every row in increasing order, ties to the lowest.

    Every row has at least `count` scores that are not minus infinity.
    """
    if scores_NS.shape[1] >= 4 * GROUPS * count:
        return _largest_of_candidates(scores_NS, count)
    return _exactly(scores_NS, count)


def _exactly(scores_NS: torch.Tensor, count: int) -> torch.Tensor:
    least_N1 = scores_NS.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    taken_NS, equal_NS = scores_NS > least_N1, scores_NS == least_N1
    missing_N1 = count - taken_NS.sum(1, keepdim=True)
    taken_NS |= equal_NS & (equal_NS.cumsum(1) <= missing_N1)
    return taken_NS.nonzero()[:, 1].view(-1, count)


def _largest_of_candidates(scores_NS: torch.Tensor, count: int) -> torch.Tensor:
    """Each of the `count` groups with the greatest maxima has one score of at least the lowest of these maxima, so the
    scores below are not among the `count` greatest.
    """
    rows, keys = scores_NS.shape
    size = keys // (GROUPS * count)
    whole = keys - keys % size
    maxima_NG = scores_NS[:, :whole].unflatten(1, (-1, size)).amax(2)
    least_N1 = maxima_NG.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    row_X, position_X = (scores_NS >= least_N1).nonzero(as_tuple=True)
    counts_N = torch.bincount(row_X, minlength=rows)
    first_N = counts_N.cumsum(0) - counts_N
    place_X = torch.arange(len(row_X), device=row_X.device) - first_N[row_X]
    shape = rows, int(counts_N.max())
    candidates_NC = scores_NS.new_full(shape, float("-inf"))
    candidates_NC[row_X, place_X] = scores_NS[row_X, position_X]
    positions_NC = torch.zeros(shape, dtype=torch.int64, device=row_X.device)
    positions_NC[row_X, place_X] = position_X
    return positions_NC.gather(1, _exactly(candidates_NC, count))
