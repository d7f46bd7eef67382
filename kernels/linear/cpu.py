"""A matrix without a bias, by the library that is fastest on the processor at hand.

torch computes float32 products by MKL, which on AMD's AVX-512 cores runs at 85 % of oneDNN's rate for many rows and at
a third of the memory's rate for few. There products go through oneDNN; those of a few rows without gradient are taken
from the left, with the rows for columns, which MKL streams at the full rate. The gradient of the matrix stays with MKL:
oneDNN is no faster on the transposed operands that it needs.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# GB/s of weights with two threads, 16,384 x 512, plain, by oneDNN and from the left: one row 11, 23 and 20; two rows
# 5, 20 and 38; four rows 7, 17 and 24; eight rows 7, 15 and 16.
FEW_ROWS = 4
SMALL_MATRIX = 1 << 18  # values; below, one row is done before the copies around the other way would be


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return _onednn(x_NI, weight_OI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        grad_NO = gradients[0]
        wants_x, wants_weight = ctx.needs_input_grad
        grad_x_NI = _onednn(grad_NO, weight_OI.t()) if wants_x else None
        grad_weight_OI = torch.mm(grad_NO.t(), x_NI) if wants_weight else None
        return grad_x_NI, grad_weight_OI


def linear(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """See `kernels.linear.linear`."""
    plain = x_NI.dtype == weight_OI.dtype == torch.float32 and weight_OI.is_contiguous()
    if not (plain and _is_amd() and x_NI.numel()):
        return F.linear(x_NI, weight_OI)
    flat_NI = x_NI.reshape(-1, x_NI.shape[-1])
    if torch.is_grad_enabled() and (x_NI.requires_grad or weight_OI.requires_grad):
        y_NO: torch.Tensor = _Linear.apply(flat_NI, weight_OI)
    else:
        y_NO = _without_gradient(flat_NI, weight_OI)
    return y_NO.view(*x_NI.shape[:-1], -1)


def _without_gradient(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    rows = x_NI.shape[0]
    if rows > FEW_ROWS:
        return _onednn(x_NI, weight_OI)
    if rows == 1 and weight_OI.numel() < SMALL_MATRIX:
        return F.linear(x_NI, weight_OI)
    # Two columns at least: the libraries have a slow path of their own for a vector.
    columns_NI = x_NI if rows > 1 else torch.cat((x_NI, x_NI))
    return torch.mm(weight_OI, columns_NI.t())[:, :rows].t().contiguous()


def _onednn(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, None, "none", [], "")
    return product


@lru_cache(maxsize=1)
def _is_amd() -> bool:
    """Whether the processor is one of AMD's and this build of torch has oneDNN: a fact, never a measurement."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
