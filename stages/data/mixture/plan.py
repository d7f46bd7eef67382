"""Which documents of which source a mixture holds, and in what order: a pure function of the seed and the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass
class Pool:
    """The documents of one source: tokens of each, how often each was taken, and how often the source may be.

    `number` is that of the source. `weights` are those of the sampling by scores, where there is one.
    """

    number: int
    lengths: Numbers
    max_epochs: float
    weights: Floats | None = None
    used: Numbers = field(init=False)

    def __post_init__(self) -> None:
        self.used = np.zeros(len(self.lengths), dtype=np.int64)

    def at_least(self, tokens: int) -> Numbers:
        """Numbers of the documents of so many tokens or more; empty ones are never among them."""
        return np.flatnonzero(self.lengths >= max(1, tokens))

    def size(self, chosen: Numbers) -> int:
        """Tokens of some documents."""
        return int(self.lengths[chosen].sum())

    def left(self, chosen: Numbers) -> float:
        """Tokens that may still be taken of some documents before they have been gone through `max_epochs` times."""
        taken = int((self.lengths[chosen] * self.used[chosen]).sum())
        return self.max_epochs * self.size(chosen) - taken

    def take(self, documents: Numbers) -> Draw:
        """Take documents, each as often as it is named."""
        np.add.at(self.used, documents, 1)
        return Draw(documents, self.lengths[documents])


@dataclass(frozen=True)
class Draw:
    """Documents of one source in the order in which they are taken, and the tokens of each."""

    documents: Numbers
    tokens: Numbers

    @property
    def total(self) -> int:
        return int(self.tokens.sum())


def draw(pool: Pool, chosen: Numbers, target: float, seed: int) -> Draw:
    """Take documents of `chosen` until they have about `target` tokens: those taken least often first.

    Documents taken equally often come in an order that is another for each time round. Place k of the result depends on
    the seed, the source and what was taken before alone, so a larger target only appends. At least one document is
    taken where the target is above zero, and the total is as near to it as a whole document lets it be.
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
    """Source and document of every place of the mixture: each source is spread evenly from the first to the last."""
    sources = np.concatenate([np.full(len(taken.documents), number) for number, taken in enumerate(draws)])
    documents = np.concatenate([taken.documents for taken in draws])
    middles = np.concatenate(
        [(np.cumsum(taken.tokens) - taken.tokens / 2) / max(1, taken.total) for taken in draws],
    )
    order = np.lexsort((sources, middles))
    return sources[order].astype(np.int64), documents[order]


def largest_budget(sizes: Sequence[float], shares: Sequence[float]) -> tuple[float, int]:
    """Tokens of the largest mixture that takes no more than `sizes` of each source, and the source that ends it."""
    limits = [size / share if share else np.inf for size, share in zip(sizes, shares, strict=True)]
    shortest = min(range(len(limits)), key=limits.__getitem__)
    return limits[shortest], shortest
