"""Which tokens of an epoch were read: ranges of positions in its stream, the documents one after the other."""

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
        """Number of read tokens in each of other ranges."""
        return self._before(ends) - self._before(starts)

    def between(self, start: int, end: int) -> ReadTokens:
        """Those in one range, by their positions in it."""
        inside = (self.ends > start) & (self.starts < end)
        starts, ends = np.maximum(self.starts[inside], start), np.minimum(self.ends[inside], end)
        return ReadTokens.of(starts - start, ends - start)

    def _before(self, positions: Ids) -> Ids:
        if not len(self.starts):
            return np.zeros_like(positions)
        place = np.maximum(np.searchsorted(self.starts, positions, side="right") - 1, 0)
        inside = np.clip(positions - self.starts[place], 0, self.ends[place] - self.starts[place])
        return self.below[place] + inside
