"""Latents of the positions that a window may still see, in memory of fixed size: a ring behind the sinks.

    place of position p  =  p                              for p < sinks
                            sinks + (p - sinks) mod size   otherwise

Softmax attention of one query does not depend on the order of the keys. So decoding reads the ring as it lies, as one
page; with blocks, a page is a block, and the query's own, of which a part is not overwritten yet, comes last.

Names: Q slots, X held positions, N positions that are written, Y single tokens, P pages, L positions per page, E values
per position.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from longcat.kernels.mla_attention import Window
from longcat.kernels.mla_paged_decode import SequencePages
from longcat.model.attention.pages import Group, Span, StepLayout


class Ring(NamedTuple):
    """Places of positions in the state of one sequence."""

    window: Window

    @property
    def capacity(self) -> int:
        """Positions in the memory of one sequence."""
        return self.window.sinks + self.window.size

    @property
    def page_size(self) -> int:
        """Positions of what is read as a page."""
        return self.window.block if self.window.block > 1 else self.capacity

    def place(self, position: int) -> int:
        """Place of a position."""
        size, sinks, _ = self.window
        return position if position < sinks else sinks + (position - sinks) % size

    def held(self, length: int) -> list[int]:
        """Positions before `length` that later queries see, in order.

        Between sinks and window whole blocks are missing. So their indices are positions of which the window hides the
        same ones.
        """
        lowest = self.window.lowest(length)
        return [*range(min(self.window.sinks, lowest)), *range(lowest, length)]

    def written(self, span: Span) -> Iterator[tuple[int, int]]:
        """(token of the step, place) of the new positions that stay."""
        size, sinks, _ = self.window
        for position in range(span.start, span.length):
            if position < sinks or position >= span.length - size:
                yield span.first + position - span.start, span.slot * self.capacity + self.place(position)

    def seen(self, span: Span) -> tuple[list[int], int]:
        """Pages that hold what the last token of a piece sees, its own page last, and the number of positions."""
        position, size = span.length - 1, self.page_size
        first = span.slot * (self.capacity // size)
        if self.window.block == 1:
            return [first], min(span.length, self.capacity)
        lowest = self.window.lowest(position)
        starts = (*range(0, min(self.window.sinks, lowest), size), *range(lowest, position + 1, size))
        return [first + self.place(start) // size for start in starts], (len(starts) - 1) * size + position % size + 1

    def pages(self, values_QXE: torch.Tensor) -> torch.Tensor:
        """All slots as pages, [P, L, E]."""
        return values_QXE.view(-1, self.page_size, values_QXE.shape[-1])


class RingPieces:
    """Where a step reads and writes in the rings; made once for all layers with equal ones.

    longer: pieces of several tokens, with the places of what is held before them. group: the single tokens `single_Y`
    as sequences in pages, None if there are none. tokens_N and places_N: what is written where.
    """

    def __init__(self, ring: Ring, layout: StepLayout) -> None:
        def on_device(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int64).to(layout.device, non_blocking=True)

        spans = layout.spans
        self.longer = [(s, on_device([ring.place(p) for p in ring.held(s.start)])) for s in spans if s.tokens > 1]
        single = [span for span in spans if span.tokens == 1]
        written = [pair for span in spans for pair in ring.written(span)]
        self.tokens_N, self.places_N = (on_device(list(x)) for x in zip(*written, strict=True))
        self.single_Y = on_device([span.first for span in single])
        self.group: Group | None = None
        if single:
            tables, lengths = zip(*(ring.seen(span) for span in single), strict=True)
            self.group = Group(1, SequencePages.of(tables, lengths, ring.page_size, layout.device))
