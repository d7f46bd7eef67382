"""Attention of the CPU in tiles: several tiles, raised references, skipped pairs, and bounded memory."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.kernels.mla_attention import cpu, document_bounds, reference
from longcat.kernels.mla_attention.pieces import KEYS, LONG, QUERIES, Block, Piece, pieces_of
from longcat.kernels.mla_attention.tiles import LARGE_SUM, Products


def inputs_of(batch: int, tokens: int, keys: int, heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((batch, tokens, heads, 6), (batch, keys, heads, 6), (batch, keys, heads, 4))
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def run(attention: Callable[..., torch.Tensor], inputs: list[torch.Tensor], bounds: Any = None) -> list[torch.Tensor]:
    """Output and gradients."""
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    o_BTHV = attention(*inputs, 0.4, bounds)
    generator = torch.Generator().manual_seed(2)
    grad_BTHV = torch.randn(o_BTHV.shape, generator=generator, dtype=torch.float64).to(o_BTHV.dtype)
    return [o_BTHV.detach(), *torch.autograd.grad(o_BTHV, inputs, grad_BTHV)]


def assert_like_reference(inputs: list[torch.Tensor], bounds: Any = None, tolerance: float = 1e-12) -> None:
    results = zip(run(cpu.tiled, inputs, bounds), run(reference.mla_attention, inputs, bounds), strict=True)
    for result, exact in results:
        torch.testing.assert_close(result, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "shape", [(1, 1300, 1300, 2), (2, 200, 1111, 1), (1, 1, 1024, 3), (5, 129, 513, 9), (1, 600, 4200, 1)]
)
def test_several_tiles_agree_with_the_reference(shape: tuple[int, int, int, int]) -> None:
    assert_like_reference(inputs_of(*shape))


def test_documents_over_several_tiles_agree_with_the_reference() -> None:
    assert_like_reference(inputs_of(2, 900, 900, 2), document_bounds(torch.tensor([0, 700, 1500, 1501, 1800]), 2, 900))


@pytest.mark.parametrize("factor", [30.0, 1e4])
def test_references_rise_where_early_keys_exceed_the_near_ones(factor: float) -> None:
    q, k, v = inputs_of(1, 1300, 1300, 1)
    k[:, 5] *= factor
    k[:, 600] *= 2 * factor
    logits = torch.einsum("bthq,bshq->bhts", q, k)[0, 0] * 0.4
    late, early = logits[1024:], logits[1024:, :KEYS]
    assert ((early.amax(1) - late[:, 1024 - QUERIES :].amax(1)).exp() > LARGE_SUM).any(), "the case has no effect"
    assert_like_reference([q, k, v], tolerance=1e-9)
    assert all(x.isfinite().all() for x in run(cpu.tiled, [x.float() for x in (q, k, v)]))


def test_blocks_and_tiles_start_at_multiples_from_the_start_of_the_document() -> None:
    piece = Piece(slice(1000, 1300), slice(2000, 2000 + 1100))
    first, last = 800, 1100
    edges = [first, *range(-(-first // QUERIES) * QUERIES, last, QUERIES), last]
    expected = [Block(slice(1000 + a - first, 1000 + b - first), a, b) for a, b in pairwise(edges)]
    assert list(piece.blocks()) == expected
    assert [block.diagonal for block in expected] == [a // KEYS * KEYS for a in edges[:-1]]
    assert piece.tiles(expected[-1]) == [(2 * KEYS, 1100), (0, KEYS), (KEYS, 2 * KEYS)]
    assert piece.places((2 * KEYS, 1100)) == slice(2000 + 2 * KEYS, 3100)
    assert list(pieces_of(0, 3)[0].blocks()) == []


def test_long_documents_have_longer_blocks() -> None:
    counts = [block.seen - block.position for block in pieces_of(LONG, LONG)[0].blocks()]
    assert counts == [2 * QUERIES] * (LONG // (2 * QUERIES))


@pytest.mark.parametrize("row", [10, 590])
def test_a_query_that_is_no_number_spoils_only_its_row(row: int) -> None:
    q, k, v = inputs_of(1, 600, 600, 1)
    expected = cpu.tiled(q, k, v, 0.4, None)
    q[:, row] = float("nan")
    o_BTHV = cpu.tiled(q, k, v, 0.4, None)
    assert o_BTHV[:, row].isnan().all()
    o_BTHV[:, row] = expected[:, row]
    assert torch.equal(o_BTHV, expected)


def test_only_pairs_of_the_documents_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    scores = Products.scores

    def count(self: Products, a_XUW: torch.Tensor, b_XEW: torch.Tensor) -> torch.Tensor:
        counted.append(a_XUW.shape[0] * a_XUW.shape[1] * b_XEW.shape[1])
        return scores(self, a_XUW, b_XEW)

    monkeypatch.setattr(Products, "scores", count)
    lengths = [5 * QUERIES, 1, 2 * QUERIES, 60]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    heads = 3
    run(cpu.tiled, inputs_of(1, sum(lengths), sum(lengths), heads), document_bounds(bounds, 1, sum(lengths)))
    one_pass = (15 + 3) * QUERIES**2 + 1 + 60**2  # a block sees itself and the blocks before it
    assert sum(counted) == 3 * heads * one_pass  # scores, scores again, and the gradient of the probabilities


def test_memory_is_linear_in_the_length() -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes() // result.element_size())
            return result

    inputs = inputs_of(1, 3000, 3000, 2)
    with Watch():
        run(cpu.tiled, inputs)
    assert largest <= max(4 * QUERIES * KEYS, 3000 * 2 * 7)


@pytest.mark.parametrize("flash", [True, False])
def test_half_precision_of_the_last_queries(flash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MASKED_SCORES", 1 << 22 if flash else 0)
    chosen = []
    monkeypatch.setattr(cpu, "flash", lambda *given: chosen.append(1) or by_torch(*given))
    inputs = inputs_of(1, 40, 700, 2)
    exact, results = run(reference.mla_attention, inputs), run(cpu.mla_attention, [x.bfloat16() for x in inputs])
    assert bool(chosen) == flash
    for result, expected in zip(results, exact, strict=True):
        assert result.dtype == torch.bfloat16
        error = torch.linalg.vector_norm(result.double() - expected)
        assert error <= 2e-2 * torch.linalg.vector_norm(expected)


by_torch = cpu.flash
