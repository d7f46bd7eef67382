"""Attention to a window of positions, against a plain loop over queries in float64."""

import itertools
import random

import pytest
import torch

from longcat.kernels.mla_attention import Window, cpu, document_bounds, mla_attention, reference
from longcat.kernels.mla_attention.pieces import KEYS, QUERIES, pieces_of
from longcat.kernels.select import KernelError
from tests.kernels.windows import positions

WINDOWS = [Window(1), Window(5), Window(5, 2), Window(24, 8, 8), Window(8, 16, 8), Window(1000)]


def by_loops(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, bounds: list[int], window: Window
) -> torch.Tensor:
    """Flattened documents [1, T, H, W], query by query."""
    outputs = []
    for start, end in itertools.pairwise(bounds):
        for query in range(end - start):
            seen = [start + j for j in positions(query, window)]
            for head in range(q.shape[2]):
                weights = (k[0, seen, head] @ q[0, start + query, head] * scale).softmax(0)
                outputs.append(weights @ v[0, seen, head])
    return torch.stack(outputs).view(1, q.shape[1], q.shape[2], -1)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_versions_equal_loops_over_queries(window: Window) -> None:
    """Outputs and gradients, with ragged documents."""
    torch.manual_seed(0)
    bounds = [0, 1, 34, 34, 90]
    inputs = [torch.randn(1, 90, 2, width, dtype=torch.float64, requires_grad=True) for width in (6, 6, 4)]
    direction = torch.randn(1, 90, 2, 4, dtype=torch.float64)
    expected = by_loops(*inputs, 0.4, bounds, window)
    gradients = torch.autograd.grad(expected, inputs, direction)
    documents = document_bounds(torch.tensor(bounds), 1, 90)
    for version in (reference.mla_attention, cpu.tiled, cpu.mla_attention):
        found = version(*inputs, 0.4, documents, window)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        for one, other in zip(torch.autograd.grad(found, inputs, direction), gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(12))
def test_tiles_equal_the_reference(seed: int) -> None:
    """Any number of queries, the last ones of any number of keys."""
    generator = random.Random(seed)
    keys = generator.choice([90, 300, KEYS, KEYS + 1, 1700])
    tokens, block = generator.randint(1, keys), generator.choice([1, 1, 16, 128])
    window = Window(block * generator.choice([1, 3, 9]), block * generator.randint(0, 2), block)
    torch.manual_seed(seed)
    inputs = [
        torch.randn(1, count, 2, width, dtype=torch.float64, requires_grad=True)
        for count, width in ((tokens, 6), (keys, 6), (keys, 4))
    ]
    found, expected = (version(*inputs, 0.4, None, window) for version in (cpu.tiled, reference.mla_attention))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    both = [torch.autograd.grad(output.square().sum(), inputs) for output in (found, expected)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [Window(256), Window(896, 128, 128)], ids=str)
def test_work_is_proportional_to_the_window(window: Window) -> None:
    (piece,) = pieces_of(1 << 15, 1 << 15, window)
    widths = [sum(end - start for start, end in piece.tiles(block)) for block in piece.blocks()]
    assert max(widths) <= QUERIES + window.size + window.sinks


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pairs_are_counted(window: Window) -> None:
    counts = [len(positions(query, window)) for query in range(70)]
    for before, tokens in [(0, 70), (0, 0), (0, 1), (3, 9), (40, 1), (31, 39)]:
        assert window.pairs(tokens, before) == sum(counts[before : before + tokens])


@pytest.mark.parametrize("window", [(0,), (5, -1), (10, 0, 4), (8, 3, 4), (4, 0, 0)])
def test_windows_that_are_not_whole_blocks_are_refused(window: tuple[int, ...]) -> None:
    x = torch.zeros(1, 2, 1, 4)
    with pytest.raises(KernelError, match="a window needs a size of at least one block and sinks of whole blocks"):
        mla_attention(x, x, x, 1.0, None, window)
