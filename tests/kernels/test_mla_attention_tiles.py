"""Flash attention with the tiles of every GPU, which differ from those that the interpreter selects."""

import pytest
import torch

pytest.importorskip("triton")
from longcat.kernels.mla_attention import DocumentBounds, document_bounds
from longcat.kernels.mla_attention import triton as flash
from longcat.kernels.mla_attention.reference import mla_attention as reference

SHAPES = sorted({tile[:2] for kernels in flash.TILES.values() for tile in kernels.values()} | {flash.SMALL[:2]})


def run(attention, inputs: list[torch.Tensor], documents: DocumentBounds | None) -> list[torch.Tensor]:
    """Output and gradients, for an output gradient with different strides."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    o_BTHV = attention(*inputs, 0.3, documents)
    generator = torch.Generator().manual_seed(2)
    grad_BHTV = torch.randn(o_BTHV.transpose(1, 2).shape, generator=generator, dtype=torch.float64)
    return [o_BTHV.detach(), *torch.autograd.grad(o_BTHV, inputs, grad_BHTV.to(o_BTHV.dtype).transpose(1, 2))]


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tile_masks_its_edges(shape: tuple[int, int], documents: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "INTERPRETED", (*shape, 1, 1))
    keys = max(40, 2 * max(shape) + 5)
    tokens = keys if documents else keys - 19
    bounds = document_bounds(torch.tensor([0, 7, 7, 37, keys - 1, keys]), 1, keys) if documents else None
    generator = torch.Generator().manual_seed(1)
    sizes = ((1, tokens, 1, 20), (1, keys, 1, 20), (1, keys, 1, 9))
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    expected = run(reference, inputs, bounds)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float16, 5e-3)):
        for exact, result in zip(
            expected, run(flash.mla_attention, [x.to(dtype) for x in inputs], bounds), strict=True
        ):
            assert result.dtype == dtype
            error = torch.linalg.vector_norm(result.double() - exact)
            assert error <= tolerance * torch.linalg.vector_norm(exact), dtype
