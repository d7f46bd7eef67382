"""RMS normalisation on GPUs: one pass forward, one pass backward, with the gradient of the weight without atomics.

Names: N rows, D normalised width; a program of the backward processes `rows_a_program` rows and writes one partial sum.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.rms_norm import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 1 << 16
PROGRAMS = 256  # partial sums of the gradient of the weight, about two per multiprocessor


@triton.jit
def _forward_kernel(x_ptr, weight_ptr, y_ptr, inverse_ptr, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, axis=0) / width + eps)
    normed = (x * inverse).to(y_ptr.dtype.element_ty).to(tl.float32)
    tl.store(inverse_ptr + row, inverse)
    tl.store(y_ptr + row * width + column, normed * weight, mask=inside)


@triton.jit
def _backward_kernel(
    grad_ptr, x_ptr, weight_ptr, inverse_ptr, grad_x_ptr, partial_ptr, rows, rows_a_program, width, BLOCK: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    partial = tl.zeros((BLOCK,), dtype=tl.float32)
    first = program * rows_a_program
    for row in range(first, tl.minimum(first + rows_a_program, rows)):
        x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
        inverse = tl.load(inverse_ptr + row)
        normed, scaled = x * inverse, grad * weight
        partial += grad * normed
        along = tl.sum(scaled * normed, axis=0) / width
        tl.store(grad_x_ptr + row * width + column, (scaled - normed * along) * inverse, mask=inside)
    tl.store(partial_ptr + program * width + column, partial, mask=inside)


def _warps(block: int) -> int:
    return min(16, max(1, block // 512))


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        rows, width = x_ND.shape
        block = triton.next_power_of_2(width)
        y_ND = torch.empty_like(x_ND)
        inverse_N = torch.empty(rows, dtype=torch.float32, device=x_ND.device)
        if rows:
            _forward_kernel[(rows,)](x_ND, weight_D, y_ND, inverse_N, width, eps, BLOCK=block, num_warps=_warps(block))
        ctx.save_for_backward(x_ND, weight_D, inverse_N)
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_ND, weight_D, inverse_N = ctx.saved_tensors
        rows, width = x_ND.shape
        block = triton.next_power_of_2(width)
        grad_ND = gradients[0].contiguous()
        grad_x_ND = torch.empty_like(x_ND)
        rows_a_program = max(1, triton.cdiv(rows, PROGRAMS))
        programs = triton.cdiv(rows, rows_a_program)
        partial_PD = torch.empty(programs, width, dtype=torch.float32, device=x_ND.device)
        if rows:
            _backward_kernel[(programs,)](
                grad_ND, x_ND, weight_D, inverse_N, grad_x_ND, partial_PD, rows, rows_a_program, width,
                BLOCK=block, num_warps=_warps(block),
            )  # fmt: skip
        return grad_x_ND, partial_PD.sum(0).to(weight_D.dtype), None


def rms_norm(x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """See `kernels.rms_norm.rms_norm`."""
    if x_ND.dtype not in DTYPES or weight_D.dtype not in DTYPES or not 0 < x_ND.shape[-1] <= MAX_WIDTH:
        return reference.rms_norm(x_ND, weight_D, eps)
    y_ND: torch.Tensor = _RMSNorm.apply(x_ND.flatten(0, -2).contiguous(), weight_D.contiguous(), eps)
    return y_ND.view(x_ND.shape)


def launches(chip: Chip) -> list[Launch]:
    """Launches for the width of LongCat-Flash, 6,144."""
    arguments = dict.fromkeys(("x_ptr", "weight_ptr", "y_ptr", "grad_ptr", "grad_x_ptr"), "*bf16")
    arguments |= dict.fromkeys(("inverse_ptr", "partial_ptr"), "*fp32")
    arguments |= {"rows": "i32", "rows_a_program": "i32", "width": "i32", "eps": "fp32"}
    block = triton.next_power_of_2(6144)
    constants, warps = {"BLOCK": block}, _warps(block)
    return [
        Launch("forward", _forward_kernel, arguments, constants, ("width",), num_warps=warps),
        Launch("backward", _backward_kernel, arguments, constants, ("width",), num_warps=warps),
    ]
