"""Linear layer without bias, using the library that is fastest on the CPU.

torch computes float32 products with MKL. On AMD cores with AVX-512, MKL reaches 85 % of the rate of oneDNN for many
rows, and a third of the memory bandwidth for few rows. On these CPUs products use oneDNN. Products of a few rows
without gradient are computed as `weight @ x^T`, for which MKL reads the weights at the full bandwidth. The gradient of
the matrix stays with MKL, because oneDNN is not faster for its transposed operands.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# GB/s of weights with two threads, 1,024 x 512, for F.linear, oneDNN and `weight @ x^T`: one row 10, 19 and 36; two
# rows 7, 15 and 31; four rows 7, 13 and 21; eight rows 9, 13 and 14. A decode step with eight sequences is 5 % faster
# with this.
FEW_ROWS = 8


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
    if not _takes(x_NI, weight_OI):
        return F.linear(x_NI, weight_OI)
    flat_NI = x_NI.reshape(-1, x_NI.shape[-1])
    if torch.is_grad_enabled() and (x_NI.requires_grad or weight_OI.requires_grad):
        y_NO: torch.Tensor = _Linear.apply(flat_NI, weight_OI)
    else:
        y_NO = _without_gradient(flat_NI, weight_OI)
    return y_NO.contiguous().view(*x_NI.shape[:-1], -1)


def product(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """`linear` of a matrix of rows, without gradient; the result may be column-major."""
    return _without_gradient(x_NI, weight_OI) if _takes(x_NI, weight_OI) else F.linear(x_NI, weight_OI)


def _takes(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> bool:
    plain = x_NI.dtype == weight_OI.dtype == torch.float32 and weight_OI.is_contiguous()
    return plain and is_amd() and x_NI.numel() > 0


def _without_gradient(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    return few_rows(x_NI, weight_OI) if x_NI.shape[0] <= FEW_ROWS else _onednn(x_NI, weight_OI)


def few_rows(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """`x_NI weight_OI^T` as `weight @ x^T`; for a single row, blocks of the matrix form a batched product."""
    if x_NI.shape[0] > 1:
        return torch.mm(weight_OI, x_NI.contiguous().t()).t()
    outputs, inputs = weight_OI.shape
    blocks = 1 << (2 * torch.get_num_threads() - 1).bit_length()
    if outputs % blocks:
        return F.linear(x_NI, weight_OI)
    # With the strides of a transposed matrix; with the strides of a view the library would take a slow path.
    column_XI1 = x_NI.contiguous().as_strided((blocks, inputs, 1), (0, 1, inputs))
    return torch.bmm(weight_OI.view(blocks, -1, inputs), column_XI1).view(1, outputs)


def _onednn(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    y_NO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, None, "none", [], "")
    return y_NO


@lru_cache(maxsize=1)
def is_amd() -> bool:
    """Whether this is an AMD CPU and torch is built with oneDNN. Not measured, so the choice is deterministic."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
