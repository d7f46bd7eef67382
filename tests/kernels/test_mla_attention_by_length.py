"""Short documents in groups: results, independence of the other documents, and the number of calls."""

from itertools import accumulate

import pytest
import torch

from longcat.kernels.mla_attention import DocumentBounds, cpu, document_bounds, reference
from longcat.kernels.mla_attention.length_groups import SHORT, STEP, LengthGroups

LENGTHS = [5, SHORT + 1, 1, STEP, STEP + 1, SHORT, 300, 90, 91, 1, SHORT // 2, SHORT // 2 + 1]
Tensors = tuple[torch.Tensor, ...]


def bounds_of(lengths: list[int], rows: int = 1) -> DocumentBounds:
    bounds = torch.tensor([0, *accumulate(lengths)])
    return document_bounds(bounds, rows, sum(lengths) // rows)


def inputs_of(tokens: int, dtype: torch.dtype, rows: int = 1) -> Tensors:
    """Queries, keys, values, and the gradient of the output."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(rows, tokens // rows, 2, width) for width in (6, 6, 4, 4)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


def run(attention, tensors: Tensors, documents: DocumentBounds) -> Tensors:
    """Output and gradients."""
    *inputs, grad = (x.detach().requires_grad_() for x in tensors)
    output = attention(*inputs, 0.4, documents)
    return output.detach(), *torch.autograd.grad(output, inputs, grad)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize(("lengths", "rows"), [(LENGTHS, 1), ([3] * 40, 4), ([70, 30, 150], 2), ([250, 250], 1)])
def test_results_are_those_of_the_reference(
    lengths: list[int], rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    documents, tensors = bounds_of(lengths, rows), inputs_of(sum(lengths), dtype, rows)
    exact = run(reference.mla_attention, tuple(x.double() for x in tensors), documents)
    for result, expected in zip(run(cpu.mla_attention, tensors, documents), exact, strict=True):
        assert result.dtype == dtype
        error = torch.linalg.vector_norm(result.double() - expected)
        assert error <= tolerance * torch.linalg.vector_norm(expected)


@pytest.mark.parametrize("number", range(len(LENGTHS)))
def test_a_document_has_the_same_bits_alone_and_among_others(number: int) -> None:
    tensors = inputs_of(sum(LENGTHS), torch.float32)
    first = sum(LENGTHS[:number])
    own = slice(first, first + LENGTHS[number])
    together = run(cpu.mla_attention, tensors, bounds_of(LENGTHS))
    alone = run(cpu.mla_attention, tuple(x[:, own] for x in tensors), bounds_of([LENGTHS[number]]))
    for part, whole in zip(alone, together, strict=True):
        assert torch.equal(part, whole[:, own])


def test_there_is_one_call_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, tiled = [], cpu.tiled
    monkeypatch.setattr(cpu, "tiled", lambda *given: shapes.append(given[0].shape[:2]) or tiled(*given))
    lengths = [20, 700, 30, 50] * 25
    run(cpu.mla_attention, inputs_of(sum(lengths), torch.float32), bounds_of(lengths))
    assert shapes == [(1, 25 * 700), (50, 32), (25, 64)]


def test_documents_that_are_all_long_are_left_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LengthGroups, "divide", None)
    cpu.mla_attention(*inputs_of(600, torch.float32)[:3], 0.4, bounds_of([SHORT + 1, 599 - SHORT]))


def test_tokens_come_back_to_their_places() -> None:
    groups, x_THW = LengthGroups(LENGTHS), torch.arange(sum(LENGTHS)).view(-1, 1, 1)
    parts = groups.divide(x_THW)
    assert torch.equal(groups.join([part.flatten(0, 1) for part in parts]), x_THW)
    for part, row in zip(parts[1:], list(groups.rows)[1:], strict=True):
        assert part.shape[1] == row
        assert (part.diff(dim=1) <= 1).all()
