"""Attention of single queries: its values, and bits that depend on a query's own positions only."""

import pytest
import torch

from longcat.kernels.mla_paged_decode import SequencePages, mla_paged_decode
from longcat.kernels.mla_paged_decode.each_query import attend_each

LATENT, SCALE = 16, 0.3


def memory(page_size: int, width: int) -> torch.Tensor:
    return torch.randn(40, page_size, width, generator=torch.Generator().manual_seed(1))


def queries(count: int, width: int) -> torch.Tensor:
    return torch.randn(count, 3, width, generator=torch.Generator().manual_seed(2))


def pages_of(tables: list[list[int]], lengths: list[int], page_size: int) -> SequencePages:
    return SequencePages.of(tables, lengths, page_size, torch.device("cpu"))


@pytest.mark.parametrize("page_size", [1, 16])
def test_equals_the_operation_on_sequences(page_size: int) -> None:
    held, length = list(range(3, 11)), 8 * page_size - page_size // 2
    q_YHE, pages_PLE = queries(4, 23), memory(page_size, 23)
    lengths = [length - 3, length - 2, length - 1, length]
    sequences = pages_of([held] * 4, lengths, page_size)
    expected = mla_paged_decode(
        q_YHE.double().unsqueeze(0), pages_PLE.double(), pages_of([held], [length], page_size), None, LATENT, SCALE
    )
    found = attend_each(q_YHE, pages_PLE, sequences, LATENT, SCALE)
    torch.testing.assert_close(found, expected[0].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [16, 23, 24])
@pytest.mark.parametrize("page_size", [1, 3, 16])
def test_pages_and_other_queries_change_no_bit(width: int, page_size: int) -> None:
    """The same positions at another address, in scattered pages, with longer neighbours, at every place."""
    pages_PLE, q_YHE = memory(page_size, width), queries(8, width)
    length = 5 * page_size - page_size // 2
    tables = [list(range(first, first + 5)) for first in (0, 7, 12)] + [[30, 22, 35, 18, 27]]
    for table in tables[1:]:
        pages_PLE[table] = pages_PLE[tables[0]]
    alone = attend_each(q_YHE[:1], pages_PLE, pages_of(tables[:1], [length], page_size), LATENT, SCALE)[0]
    for place in range(8):
        for table in tables:
            held = [[1, 2, 3]] * 8
            held[place] = table
            lengths = [2 * page_size + 1] * 8
            lengths[place] = length
            moved = q_YHE.roll(place, 0)
            found = attend_each(moved, pages_PLE, pages_of(held, lengths, page_size), LATENT, SCALE)
            assert torch.equal(found[place], alone)
