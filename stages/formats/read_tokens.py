"""Which tokens of an epoch were read: ranges of positions in its stream, the documents one after the other.

A token is read when it is an input; its target is the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ReadTokens:
    """Ascending ranges `starts[i]` to `ends[i]` (excluded) without common tokens; `below[i]` tokens are before i."""

    starts: Ids
    ends: Ids
    below: Ids

    @classmethod
    def of(cls, starts: Ids, ends: Ids) -> ReadTokens:
        """The tokens of these ranges, in any order and with common tokens."""
        order = np.argsort(starts, kind="stable")
        order = order[ends[order] > starts[order]]
        starts, ends = starts[order], np.maximum.accumulate(ends[order])
        firsts = np.flatnonzero(np.concatenate([[True], starts[1:] > ends[:-1]])[: len(starts)])
        lasts = np.concatenate([firsts[1:] - 1, [len(starts) - 1]])[: len(firsts)]
        starts, ends = starts[firsts], ends[lasts]
        return cls(starts, ends, np.cumsum(ends - starts) - (ends - starts))

    @classmethod
    def nothing(cls) -> ReadTokens:
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, none)

    @property
    def total(self) -> int:
        return int((self.ends - self.starts).sum())

    def __or__(self, other: ReadTokens) -> ReadTokens:
        return ReadTokens.of(np.concatenate([self.starts, other.starts]), np.concatenate([self.ends, other.ends]))

    def within(self, starts: Ids, ends: Ids) -> Ids:
        """Number of these tokens in each of other ranges."""
        return self._before(ends) - self._before(starts)

    def between(self, start: int, end: int) -> ReadTokens:
        """Those in one range, by their positions in it."""
        _, starts, ends = self.pieces(np.array([start]), np.array([end]))
        return ReadTokens.of(starts - start, ends - start)

    def pieces(self, starts: Ids, ends: Ids) -> tuple[Ids, Ids, Ids]:
        """These tokens cut at the borders of other ascending ranges without common tokens.

        Returns the number of the other range, the start and the end of every piece, ascending.
        """
        first = np.searchsorted(self.ends, starts, side="right")
        count = np.maximum(np.searchsorted(self.starts, ends, side="left") - first, 0)
        other = np.repeat(np.arange(len(starts)), count)
        mine = np.arange(len(other)) - np.repeat(np.cumsum(count) - count - first, count)
        return other, np.maximum(self.starts[mine], starts[other]), np.minimum(self.ends[mine], ends[other])

    def left(self, starts: Ids, ends: Ids, *, whole: bool) -> ReadTokens:
        """What of a stream of documents, at these ascending positions that leave no gap, was not read.

        With `whole`: the documents of which the smallest shares were read, as many as hold at most as many tokens as
        were not read. In pieces they would have no long context.
        """
        if whole:
            shares = self.within(starts, ends) / (ends - starts)
            order = np.argsort(shares, kind="stable")
            room = int((ends - starts).sum()) - self.total
            kept = order[: np.searchsorted(np.cumsum((ends - starts)[order]), room, side="right")]
            return ReadTokens.of(starts[kept], ends[kept])
        return ReadTokens.of(np.concatenate([[0], self.ends]), np.concatenate([self.starts, ends[-1:]]))

    def _before(self, positions: Ids) -> Ids:
        if not len(self.starts):
            return np.zeros_like(positions)
        place = np.maximum(np.searchsorted(self.starts, positions, side="right") - 1, 0)
        inside = np.clip(positions - self.starts[place], 0, self.ends[place] - self.starts[place])
        return self.below[place] + inside
