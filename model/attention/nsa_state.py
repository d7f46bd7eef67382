"""What native sparse attention keeps of a sequence beside its latents: a row of pages for every few positions.

Names: P pages, L rows of a page, W values of a row, N rows of a sequence.
"""

from __future__ import annotations

import torch

from longcat.model.attention.pages import PageState, StepLayout

# Block numbers are kept as the bits of values of the cache's type.
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class SummaryRows:
    """The rows of one sequence in a state `PerPosition(width, every)`."""

    def __init__(self, state: PageState, layout: StepLayout, index: int) -> None:
        self._rows_XW = state.pages_PLW.view(-1, state.pages_PLW.shape[-1])
        self._per_page, self._table = state.pages_PLW.shape[1], layout.tables[index]

    def read(self, first: int, end: int) -> torch.Tensor:
        """Rows `first` to `end` - 1, [N, W]."""
        return self._rows_XW.index_select(0, self._places(first, end))

    def write(self, first: int, values_NW: torch.Tensor) -> None:
        """Write rows from `first` on."""
        self._rows_XW.index_copy_(0, self._places(first, first + values_NW.shape[0]), values_NW)

    def read_numbers(self, first: int, end: int) -> torch.Tensor:
        """The same as integers, int64."""
        rows_NW = self.read(first, end)
        return rows_NW.view(_INTEGERS[rows_NW.element_size()]).long()

    def write_numbers(self, first: int, numbers_NW: torch.Tensor) -> None:
        """Write integers."""
        dtype = self._rows_XW.dtype
        self.write(first, numbers_NW.to(_INTEGERS[dtype.itemsize]).view(dtype))

    def _places(self, first: int, end: int) -> torch.Tensor:
        size, table = self._per_page, self._table
        places = [table[row // size] * size + row % size for row in range(first, end)]
        return torch.tensor(places, dtype=torch.int64, device=self._rows_XW.device)
