"""Rotary position embedding on GPUs in one pass; the backward rotates in the opposite direction.

Names: a row is one head of one token of one batch row; P pairs; a program processes a tile of `ROWS` rows.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.rope import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE = 4096  # values per program, so that each of its 128 threads has loads of 16 bytes
MAX_WIDTH = TILE


@triton.jit
def _turn_kernel(
    x_ptr, cos_ptr, sin_ptr, y_ptr, rows, tokens, heads, pairs, x_batch, x_token, x_head,
    ROWS: tl.constexpr, PAIRS: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    position = row // heads
    token = position % tokens
    start = (position // tokens).to(tl.int64) * x_batch + token.to(tl.int64) * x_token + (row % heads) * x_head
    column, pair = tl.arange(0, 2 * PAIRS), tl.arange(0, PAIRS)
    inside = (row < rows)[:, None] & (column < 2 * pairs)[None, :]
    known = (row < rows)[:, None] & (pair < pairs)[None, :]
    x = tl.load(x_ptr + start[:, None] + column[None, :], mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + token[:, None] * pairs + pair[None, :], mask=known, other=1.0)
    sin = tl.load(sin_ptr + token[:, None] * pairs + pair[None, :], mask=known, other=0.0)
    if BACK:
        sin = -sin
    even, odd = tl.split(tl.reshape(x, (ROWS, PAIRS, 2)))
    turned = tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), (ROWS, 2 * PAIRS))
    tl.store(y_ptr + row.to(tl.int64)[:, None] * (2 * pairs) + column[None, :], turned, mask=inside)


def _constants(pairs: int, back: bool) -> dict[str, Any]:
    block = triton.next_power_of_2(pairs)
    return {"ROWS": TILE // (2 * block), "PAIRS": block, "BACK": back}


def _turn(x_BTHR: torch.Tensor, cos_TP: torch.Tensor, sin_TP: torch.Tensor, back: bool) -> torch.Tensor:
    x_BTHR = x_BTHR if x_BTHR.stride(-1) == 1 else x_BTHR.contiguous()
    batch, tokens, heads, width = x_BTHR.shape
    y_BTHR = torch.empty(x_BTHR.shape, dtype=x_BTHR.dtype, device=x_BTHR.device)
    rows, constants = batch * tokens * heads, _constants(width // 2, back)
    if rows:
        _turn_kernel[(triton.cdiv(rows, constants["ROWS"]),)](
            x_BTHR, cos_TP, sin_TP, y_BTHR, rows, tokens, heads, width // 2, *x_BTHR.stride()[:3], **constants
        )
    return y_BTHR


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHR: torch.Tensor, cos_TP: torch.Tensor, sin_TP: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos_TP, sin_TP)
        return _turn(x_BTHR, cos_TP, sin_TP, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos_TP, sin_TP = ctx.saved_tensors
        return _turn(gradients[0], cos_TP, sin_TP, back=True), None, None


def rope(x_BTHR: torch.Tensor, angles_TP: torch.Tensor) -> torch.Tensor:
    """See `kernels.rope.rope`."""
    if x_BTHR.dtype not in DTYPES or not 0 < x_BTHR.shape[-1] <= MAX_WIDTH:
        return reference.rope(x_BTHR, angles_TP)
    # Rounded once, after cos and sin: a float32 angle of 100,000 radians would be wrong in the second digit.
    cos_TP, sin_TP = (x.to(torch.float32).contiguous() for x in (angles_TP.cos(), angles_TP.sin()))
    y_BTHR: torch.Tensor = _Rope.apply(x_BTHR, cos_TP, sin_TP)
    return y_BTHR


def launches(chip: Chip) -> list[Launch]:
    """Launches for the rotary width of LongCat-Flash, 64, within heads of width 192."""
    arguments = dict.fromkeys(("x_ptr", "y_ptr"), "*bf16") | dict.fromkeys(("cos_ptr", "sin_ptr"), "*fp32")
    integers = ("rows", "tokens", "heads", "pairs", "x_batch", "x_token", "x_head")
    arguments |= dict.fromkeys(integers, "i32")
    return [
        Launch(name, _turn_kernel, arguments, _constants(32, back), integers)
        for name, back in (("forward", False), ("backward", True))
    ]
