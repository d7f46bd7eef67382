"""Documents of a mixture and their order: a pure function of seed and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from longcat.stages.formats.lengths import Unit

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass
class Pool:
    """Documents of one source: tokens, times taken, and maximum epochs.

    `number` is the source index. `weights` are sampling weights by scores, `text_bytes` the bytes of texts, if used.
    """

    number: int
    lengths: Numbers
    max_epochs: float
    weights: Floats | None = None
    text_bytes: Numbers | None = None
    used: Numbers = field(init=False)

    def __post_init__(self) -> None:
        self.used = np.zeros(len(self.lengths), dtype=np.int64)

    def at_least(self, tokens: int) -> Numbers:
        """Indices of documents with at least this many tokens, without empty ones."""
        return np.flatnonzero(self.lengths >= max(1, tokens))

    def size(self, chosen: Numbers) -> int:
        """Total tokens of some documents."""
        return int(self.lengths[chosen].sum())

    def left(self, chosen: Numbers) -> float:
        """Tokens that can still be taken from some documents within `max_epochs`."""
        taken = int((self.lengths[chosen] * self.used[chosen]).sum())
        return self.max_epochs * self.size(chosen) - taken

    def take(self, documents: Numbers) -> Draw:
        """Record documents as taken, once per occurrence."""
        np.add.at(self.used, documents, 1)
        return Draw(documents, self.lengths[documents])


@dataclass(frozen=True)
class DrawnPart:
    """What was drawn from documents of `least` or more and fewer than `below` of a unit; `share` of all was due."""

    least: int
    below: int | None
    share: float
    documents: int
    tokens: int
    unit: Unit = "tokens"


@dataclass(frozen=True)
class Draw:
    """Documents of one source in drawing order, and their tokens; `parts`: by length, if drawn by length."""

    documents: Numbers
    tokens: Numbers
    parts: tuple[DrawnPart, ...] = ()

    @property
    def total(self) -> int:
        return int(self.tokens.sum())


def draw(pool: Pool, chosen: Numbers, target: float, seed: int) -> Draw:
    """Draw documents of `chosen` up to about `target` tokens, those taken least often first.

    Documents taken equally often are shuffled differently in each round. Position k of the result depends only on the
    seed, the source and earlier draws, so a larger target only appends. At least one document is drawn if the target is
    above zero, and the total is as close to it as whole documents allow.
    """
    rounds: list[Numbers] = []
    size = 0
    used = pool.used[chosen].copy()
    while target > 0 and size < target:
        least = int(used.min())
        order = np.random.Generator(np.random.PCG64([seed, pool.number, least])).permutation(len(pool.lengths))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        fresh = chosen[used == least]
        rounds.append(fresh[np.argsort(rank[fresh])])
        size += pool.size(fresh)
        used[used == least] += 1
    documents = np.concatenate([np.zeros(0, dtype=np.int64), *rounds])
    ends = np.cumsum(pool.lengths[documents])
    count = int(np.searchsorted(ends, target))
    if target > 0 and count < len(ends) and (count == 0 or ends[count] - target <= target - ends[count - 1]):
        count += 1
    return pool.take(documents[:count])


def interleave(draws: Sequence[Draw]) -> tuple[Numbers, Numbers]:
    """Source and document of every position of the mixture: each source is spread evenly."""
    sources = np.concatenate([np.full(len(taken.documents), number) for number, taken in enumerate(draws)])
    documents = np.concatenate([taken.documents for taken in draws])
    middles = np.concatenate(
        [(np.cumsum(taken.tokens) - taken.tokens / 2) / max(1, taken.total) for taken in draws],
    )
    order = np.lexsort((sources, middles))
    return sources[order].astype(np.int64), documents[order]


def largest_budget(sizes: Sequence[float], shares: Sequence[float]) -> tuple[float, int]:
    """Tokens of the largest mixture with at most `sizes` per source, and the limiting source."""
    limits = [size / share if share else np.inf for size, share in zip(sizes, shares, strict=True)]
    shortest = min(range(len(limits)), key=limits.__getitem__)
    return limits[shortest], shortest
