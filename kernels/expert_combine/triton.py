"""Add the weighted rows of every token on GPUs: one program per token, forward and backward, by slot.

Names: T tokens, K slots per token, R rows, D width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.expert_combine import reference
from longcat.kernels.expert_order import ExpertOrder

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_BLOCK = 2048  # values of a row per program: loads of 16 bytes per thread in half precision


@triton.jit
def _forward_kernel(rows_ptr, weights_ptr, row_ptr, y_ptr, width, topk, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for slot in range(token * topk, (token + 1) * topk):
        row = tl.load(row_ptr + slot)
        weight = tl.load(weights_ptr + slot).to(tl.float32)
        x = tl.load(rows_ptr + row * width + column, mask=inside & (row >= 0), other=0.0).to(tl.float32)
        # A slot without a row also has a weight; infinity times zero must not enter the sum.
        total += x * tl.where(row >= 0, weight, 0.0)
    tl.store(y_ptr + token * width + column, total, mask=inside)


@triton.jit
def _backward_kernel(
    grad_ptr, rows_ptr, weights_ptr, row_ptr, grad_rows_ptr, grad_weights_ptr, width, topk, BLOCK: tl.constexpr
):
    token = tl.program_id(0).to(tl.int64)
    for slot in range(token * topk, (token + 1) * topk):
        row = tl.load(row_ptr + slot)
        weight = tl.load(weights_ptr + slot).to(tl.float32)
        dots = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, width, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = (column < width) & (row >= 0)
            grad = tl.load(grad_ptr + token * width + column, mask=inside, other=0.0).to(tl.float32)
            dots += grad * tl.load(rows_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(grad_rows_ptr + row * width + column, grad * weight, mask=inside)
        tl.store(grad_weights_ptr + slot, tl.sum(dots, axis=0))


def _block(width: int) -> int:
    return min(MAX_BLOCK, triton.next_power_of_2(width))


class _ExpertCombine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: torch.Tensor, weights_TK: torch.Tensor, row_TK: torch.Tensor) -> torch.Tensor:
        (tokens, topk), width = row_TK.shape, rows_RD.shape[1]
        y_TD = rows_RD.new_empty(tokens, width)
        block = _block(width)
        if tokens:
            _forward_kernel[(tokens, triton.cdiv(width, block))](
                rows_RD, weights_TK, row_TK, y_TD, width, topk, BLOCK=block
            )
        ctx.save_for_backward(rows_RD, weights_TK, row_TK)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows_RD, weights_TK, row_TK = ctx.saved_tensors
        (tokens, topk), width = row_TK.shape, rows_RD.shape[1]
        grad_rows_RD, grad_weights_TK = torch.empty_like(rows_RD), torch.empty_like(weights_TK)
        if tokens:
            _backward_kernel[(tokens,)](
                gradients[0].contiguous(), rows_RD, weights_TK, row_TK, grad_rows_RD, grad_weights_TK, width, topk,
                BLOCK=_block(width),
            )  # fmt: skip
        return grad_rows_RD, grad_weights_TK, None


def expert_combine(rows_RD: torch.Tensor, weights_TK: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """See `kernels.expert_combine.expert_combine`."""
    if rows_RD.dtype not in DTYPES or weights_TK.dtype not in DTYPES:
        return reference.expert_combine(rows_RD, weights_TK, order)
    y_TD: torch.Tensor = _ExpertCombine.apply(rows_RD.contiguous(), weights_TK.contiguous(), order.row_TK)
    return y_TD


def launches(chip: Chip) -> list[Launch]:
    """Launches for the width of LongCat-Flash, 6,144, and 12 slots per token."""
    arguments = dict.fromkeys(("rows_ptr", "y_ptr", "grad_ptr", "grad_rows_ptr"), "*bf16")
    arguments |= {"weights_ptr": "*fp32", "grad_weights_ptr": "*fp32", "row_ptr": "*i64"}
    arguments |= {"width": "i32", "topk": "i32"}
    constants = {"BLOCK": _block(6144)}
    return [
        Launch("forward", _forward_kernel, arguments, constants, ("width",)),
        Launch("backward", _backward_kernel, arguments, constants, ("width",)),
    ]
