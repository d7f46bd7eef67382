"""Copy every token to the rows of its experts on GPUs; the backward sums each token's rows by slot.

Names: T tokens, K slots per token, R rows, D width.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.expert_gather import reference
from longcat.kernels.expert_order import ExpertOrder

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_BLOCK = 2048  # values of a row per program: loads of 16 bytes per thread in half precision


@triton.jit
def _forward_kernel(x_ptr, token_ptr, ends_ptr, rows_ptr, width, experts, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(ends_ptr + experts - 1):
        return
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(token_ptr + row)
    x = tl.load(x_ptr + token * width + column, mask=column < width)
    tl.store(rows_ptr + row * width + column, x, mask=column < width)


@triton.jit
def _backward_kernel(grad_ptr, row_ptr, grad_x_ptr, width, topk, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for slot in range(token * topk, (token + 1) * topk):
        row = tl.load(row_ptr + slot)
        total += tl.load(grad_ptr + row * width + column, mask=inside & (row >= 0), other=0.0).to(tl.float32)
    tl.store(grad_x_ptr + token * width + column, total, mask=inside)


def _block(width: int) -> int:
    return min(MAX_BLOCK, triton.next_power_of_2(width))


class _ExpertGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
        rows, width = order.token_R.shape[0], x_TD.shape[1]
        rows_RD = x_TD.new_empty(rows, width)
        block = _block(width)
        if rows:
            _forward_kernel[(rows, triton.cdiv(width, block))](
                x_TD, order.token_R, order.ends_N, rows_RD, width, order.ends_N.shape[0], BLOCK=block
            )
        ctx.save_for_backward(order.row_TK)
        return rows_RD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (row_TK,) = ctx.saved_tensors
        grad_RD = gradients[0].contiguous()
        (tokens, topk), width = row_TK.shape, grad_RD.shape[1]
        grad_x_TD = grad_RD.new_empty(tokens, width)
        block = _block(width)
        if tokens:
            _backward_kernel[(tokens, triton.cdiv(width, block))](grad_RD, row_TK, grad_x_TD, width, topk, BLOCK=block)
        return grad_x_TD, None


def expert_gather(x_TD: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """See `kernels.expert_gather.expert_gather`."""
    if x_TD.dtype not in DTYPES:
        return reference.expert_gather(x_TD, order)
    rows_RD: torch.Tensor = _ExpertGather.apply(x_TD.contiguous(), order)
    return rows_RD


def launches(chip: Chip) -> list[Launch]:
    """Launches for the width of LongCat-Flash, 6,144, and 12 slots per token."""
    arguments = dict.fromkeys(("x_ptr", "rows_ptr", "grad_ptr", "grad_x_ptr"), "*bf16")
    arguments |= {"token_ptr": "*i64", "ends_ptr": "*i32", "row_ptr": "*i64"}
    arguments |= dict.fromkeys(("width", "topk", "experts"), "i32")
    constants = {"BLOCK": _block(6144)}
    return [
        Launch("forward", _forward_kernel, arguments, constants, ("width",)),
        Launch("backward", _backward_kernel, arguments, constants, ("width",)),
    ]
