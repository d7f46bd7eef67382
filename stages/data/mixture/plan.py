"""Which documents of which source a mixture holds, and in what order: a pure function of the seed and the place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draw:
    """Documents of one source in the order in which they are taken, and the tokens of each."""

    documents: Numbers
    tokens: Numbers

    @property
    def total(self) -> int:
        return int(self.tokens.sum())


def draw(lengths: Numbers, chosen: Numbers, target: float, seed: int, source: int) -> Draw:
    """Take documents until they have about `target` tokens: epoch after epoch, each permuted anew.

    `lengths` [n documents] has the tokens of all documents, `chosen` the numbers of those that may be taken. Place k
    of the result depends on seed, source and k alone, so a larger target only appends. At least one document is taken,
    and the total is as near to the target as a whole document lets it be.
    """
    size = int(lengths[chosen].sum())
    epochs = [
        np.random.Generator(np.random.PCG64([seed, source, epoch])).permutation(chosen)
        for epoch in range(int(target // size) + 1)
    ]
    documents = np.concatenate(epochs)
    ends = np.cumsum(lengths[documents])
    count = int(np.searchsorted(ends, target))
    if count < len(ends) and (count == 0 or ends[count] - target <= target - ends[count - 1]):
        count += 1
    return Draw(documents[:count], lengths[documents[:count]])


def interleave(draws: Sequence[Draw]) -> tuple[Numbers, Numbers]:
    """Source and document of every place of the mixture: each source is spread evenly from the first to the last."""
    sources = np.concatenate([np.full(len(taken.documents), number) for number, taken in enumerate(draws)])
    documents = np.concatenate([taken.documents for taken in draws])
    middles = np.concatenate([(np.cumsum(taken.tokens) - taken.tokens / 2) / taken.total for taken in draws])
    order = np.lexsort((sources, middles))
    return sources[order].astype(np.int64), documents[order]


def shares(weights: Sequence[float]) -> list[float]:
    """The weights as shares of one."""
    return [weight / sum(weights) for weight in weights]


def largest_budget(sizes: Sequence[int], wanted: Sequence[float], epochs: Sequence[float]) -> tuple[float, int]:
    """Tokens of the largest mixture in which no source is gone through too often, and the source that ends it."""
    limits = [size * most / share for size, share, most in zip(sizes, wanted, epochs, strict=True)]
    shortest = min(range(len(limits)), key=limits.__getitem__)
    return limits[shortest], shortest
