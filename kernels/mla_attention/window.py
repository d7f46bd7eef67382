"""Which positions a query sees: all before it, or a window of them.

    i sees j   iff   j <= i  and  (j >= lowest(i)  or  j < sinks)
    lowest(i)  =     floor(i / block) * block + block - size

With `block` 1 this is a sliding window of `size` positions. With blocks it is the streaming form of LongCat's ZigZag
attention: the first `sinks` positions, and the last `size / block` blocks, of which the query's own is one. Positions
are those in the document.
"""

from functools import lru_cache
from typing import NamedTuple

import torch

from longcat.kernels.select import KernelError


class Window(NamedTuple):
    """size: positions of the window, with the query's own. sinks: first positions, seen by all. block: of positions."""

    size: int
    sinks: int = 0
    block: int = 1

    def check(self) -> None:
        """Raise KernelError unless the sizes are in range, and whole blocks."""
        if self.size < 1 or self.sinks < 0 or self.block < 1 or self.size % self.block or self.sinks % self.block:
            raise KernelError(
                f"mla_attention: a window needs a size of at least one block and sinks of whole blocks, got {self}"
            )

    def lowest(self, position: int) -> int:
        """First position of the window of a query."""
        return max(0, position // self.block * self.block + self.block - self.size)

    def pairs(self, tokens: int, before: int) -> int:
        """Number of pairs of a query and a position that it sees, for `tokens` queries after `before` positions."""
        return self._pairs(before + tokens) - self._pairs(before)

    def _pairs(self, length: int) -> int:
        """Pairs of the first `length` queries: the first `size` see all before them, and then block after block."""
        start = min(length, self.size)
        blocks, rest = divmod(length - start, self.block)
        whole = blocks * (self.block * self.size - self.block * (self.block - 1) // 2)
        part = rest * (self.size - self.block) + rest * (rest + 1) // 2
        full = min(blocks, self.sinks // self.block)  # blocks after the window until all sinks are before it
        sinks = self.block * (self.block * full * (full + 1) // 2 + (blocks - full) * self.sinks)
        return start * (start + 1) // 2 + whole + part + sinks + rest * min(self.sinks, (blocks + 1) * self.block)


def visible(i: torch.Tensor, j: torch.Tensor, window: Window | None) -> torch.Tensor:
    """Whether queries at positions `i` see positions `j`, bool; the two are broadcast."""
    causal = j <= i
    if window is None:
        return causal
    lowest = i // window.block * window.block + window.block - window.size
    return causal & ((j >= lowest) | (j < window.sinks))


@lru_cache(maxsize=64)
def hidden(queries: tuple[int, int], keys: tuple[int, int], window: Window) -> torch.Tensor:
    """Mask [U, E] of keys that the window hides, for ranges of positions, of which later ones are not hidden here."""
    i_U1, j_E = torch.arange(*queries).unsqueeze(1), torch.arange(*keys)
    return ~visible(i_U1, j_E, window) & (j_E <= i_U1)
