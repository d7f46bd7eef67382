"""Where the cached positions of sequences are in the pages, found once per step and used by every layer.

Names: B sequences, M maximum number of pages per sequence, L positions per page, S positions of a sequence, E width of
a cached position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch

from longcat.kernels.select import KernelError


class Row(NamedTuple):
    """The positions of one sequence among all positions of the pages: `length` from `first` on, or at `places_S`.

    places_S: int64, None if the pages of the sequence are consecutive.
    """

    length: int
    first: int
    places_S: torch.Tensor | None

    def read(self, positions_NE: torch.Tensor) -> torch.Tensor:
        """The sequence's positions [S, E] of the positions of all pages; a view if its pages are consecutive."""
        if self.places_S is None:
            return positions_NE[self.first : self.first + self.length]
        return positions_NE.index_select(0, self.places_S)


class SequencePages:
    """Pages and lengths of B sequences, as tuples on the host and as int32 tensors on the device, each made on demand.

    Position n of sequence b is `pages[tables[b][n // L], n % L]`, for n below `lengths[b]`.
    """

    def __init__(self, page_size: int, device: torch.device) -> None:
        self.page_size, self.device = page_size, device

    @classmethod
    def of(
        cls, tables: Iterable[Sequence[int]], lengths: Iterable[int], page_size: int, device: torch.device
    ) -> SequencePages:
        """From the pages and the length of every sequence.

        Raises:
            KernelError: a length is negative or beyond the pages of its sequence, or a page is negative.
        """
        made = cls(page_size, device)
        made.lengths = tuple(lengths)
        made.tables = tuple(tuple(table) for table in tables)
        made._check()
        return made

    @classmethod
    def from_tensors(cls, table_BM: torch.Tensor, lengths_B: torch.Tensor, page_size: int) -> SequencePages:
        """From a page table and lengths on the device, which are not read here."""
        made = cls(page_size, lengths_B.device)
        made.table_BM, made.lengths_B = table_BM, lengths_B
        return made

    def _check(self) -> None:
        for table, length in zip(self.tables, self.lengths, strict=True):
            if not 0 <= length <= len(table) * self.page_size:
                raise KernelError(
                    f"mla_paged_decode: {len(table)} pages of {self.page_size} positions do not hold {length} positions"
                )
            if min(table, default=0) < 0:
                raise KernelError(f"mla_paged_decode: the page table names page {min(table)}")

    def used(self) -> Iterator[tuple[int, ...]]:
        """The pages of every sequence that its length reaches."""
        for table, length in zip(self.tables, self.lengths, strict=True):
            yield table[: -(-length // self.page_size)]

    @cached_property
    def last_page(self) -> int:
        """The greatest page in use, -1 if there is none."""
        return max((max(table, default=-1) for table in self.used()), default=-1)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Positions of every sequence."""
        return tuple(self.lengths_B.tolist())

    @cached_property
    def tables(self) -> tuple[tuple[int, ...], ...]:
        """Pages of every sequence."""
        return tuple(tuple(table) for table in self.table_BM.tolist())

    @cached_property
    def rows(self) -> list[Row]:
        """Place of every sequence's positions."""
        return [self._row(table, length) for table, length in zip(self.used(), self.lengths, strict=True)]

    @cached_property
    def table_BM(self) -> torch.Tensor:  # noqa: N802
        """Page table, int32; entries beyond a length are 0 and never read."""
        tables = list(self.used())
        most = max(map(len, tables), default=0)
        filled = [[*table, *[0] * (most - len(table))] for table in tables]
        table_BM = torch.tensor(filled, dtype=torch.int32).view(len(filled), most)
        return table_BM.to(self.device, non_blocking=True)

    @cached_property
    def lengths_B(self) -> torch.Tensor:  # noqa: N802
        """Lengths, int32."""
        return torch.tensor(self.lengths, dtype=torch.int32).to(self.device, non_blocking=True)

    def _row(self, table: tuple[int, ...], length: int) -> Row:
        first = table[0] if length else 0
        if table == tuple(range(first, first + len(table))):
            return Row(length, first * self.page_size, None)
        slots_L = torch.arange(self.page_size)
        places_ML = torch.tensor(table).unsqueeze(1) * self.page_size + slots_L
        return Row(length, first * self.page_size, places_ML.flatten()[:length].to(self.device))
