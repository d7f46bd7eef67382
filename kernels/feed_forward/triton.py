"""The dense feed-forward network on GPUs: gate and up from one read of the rows, multiplied in registers.

The kernel uses the tiles of `grouped_mlp`, without experts. All other matrix products are done by the vendor library.
In the backward, one pass computes both gradients and recomputes the product of gate and up.

Names: R rows, D model width, F inner width, G = 2F.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip, chip_of
from longcat.kernels.feed_forward import reference
from longcat.kernels.grouped_mlp.tiles import EXACT, FEW, SOME, choose, many_rows
from longcat.kernels.grouped_mlp.triton_kernels import gate_and_up, store_active, swiglu_backward, tile_of

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_BLOCK = 1024  # values of a row per program of the backward


@triton.jit
def _gate_up_kernel(
    x_ptr, gate_ptr, up_ptr, hidden_ptr, active_ptr, rows, tiles, width, inner,
    KEEP: tl.constexpr, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile, column_tile = tile_of(tiles, inner, BLOCK_N)
    m = tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    in_m, in_n = m < rows, n < inner
    gate, up = gate_and_up(
        x_ptr + m * width, gate_ptr + n * width, up_ptr + n * width, in_m, in_n, width, SWAP, BLOCK_M, BLOCK_N, BLOCK_K
    )
    store_active(gate, up, hidden_ptr, active_ptr, m, n, in_m & in_n, inner, KEEP)


@triton.jit
def _swiglu_backward_kernel(grad_ptr, hidden_ptr, grad_hidden_ptr, active_ptr, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < inner
    grad = tl.load(grad_ptr + row * inner + column, mask=inside, other=0.0).to(tl.float32)
    swiglu_backward(grad, (hidden_ptr, grad_hidden_ptr, active_ptr), row, column, inside, inner)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_RD: torch.Tensor, gate_FD: torch.Tensor, up_FD: torch.Tensor, down_DF: torch.Tensor, keep: bool
    ) -> torch.Tensor:
        (rows, width), inner = x_RD.shape, gate_FD.shape[0]
        hidden_RG, active_RF = x_RD.new_empty(rows if keep else 0, 2 * inner), x_RD.new_empty(rows, inner)
        tile = choose(chip_of(x_RD.device), x_RD.dtype, rows, 1)
        tiles = triton.cdiv(rows, tile.rows)
        if rows:
            _gate_up_kernel[(tiles * triton.cdiv(inner, tile.columns),)](
                x_RD, gate_FD, up_FD, hidden_RG, active_RF, rows, tiles, width, inner,
                KEEP=keep, SWAP=tile.swap, **tile.constants(), **tile.options(),
            )  # fmt: skip
        ctx.save_for_backward(x_RD, gate_FD, up_FD, down_DF, hidden_RG)
        return torch.mm(active_RF, down_DF.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_RD, gate_FD, up_FD, down_DF, hidden_RG = ctx.saved_tensors
        grad_RD, (rows, inner) = gradients[0], (x_RD.shape[0], gate_FD.shape[0])
        grad_active_RF = torch.mm(grad_RD, down_DF)
        grad_hidden_RG, active_RF = torch.empty_like(hidden_RG), torch.empty_like(grad_active_RF)
        if rows:
            block = _block(inner)
            _swiglu_backward_kernel[(rows, triton.cdiv(inner, block))](
                grad_active_RF, hidden_RG, grad_hidden_RG, active_RF, inner, BLOCK=block
            )
        grad_gate_RF, grad_up_RF = grad_hidden_RG.chunk(2, dim=1)
        grad_x_RD = torch.mm(grad_gate_RF, gate_FD).addmm_(grad_up_RF, up_FD)
        weights = (torch.mm(grad.t(), of) for grad, of in ((grad_gate_RF, x_RD), (grad_up_RF, x_RD)))
        return grad_x_RD, *weights, torch.mm(grad_RD.t(), active_RF), None


def feed_forward(x_ND: torch.Tensor, gate_FD: torch.Tensor, up_FD: torch.Tensor, down_DF: torch.Tensor) -> torch.Tensor:
    """See `kernels.feed_forward.feed_forward`."""
    inputs = (x_ND.reshape(-1, x_ND.shape[-1]), gate_FD, up_FD, down_DF)
    if x_ND.dtype not in DTYPES or any(tensor.dtype != x_ND.dtype for tensor in inputs):
        return reference.feed_forward(x_ND, gate_FD, up_FD, down_DF)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    y_RD: torch.Tensor = _FeedForward.apply(*(tensor.contiguous() for tensor in inputs), keep)
    return y_RD.view(x_ND.shape)


def _block(inner: int) -> int:
    return min(MAX_BLOCK, triton.next_power_of_2(inner))


def launches(chip: Chip) -> list[Launch]:
    """Launches for the sizes of LongCat-Flash, 6,144 and 12,288, with many, some and few rows, and in float32."""
    kinds = (
        ("gate and up", "*bf16", many_rows(chip, torch.bfloat16)),
        ("gate and up, some rows", "*bf16", SOME[chip.name]),
        ("gate and up, few rows", "*bf16", FEW[chip.name]),
        ("gate and up, float32", "*fp32", EXACT),
    )
    tensors = [f"{name}_ptr" for name in ("x", "gate", "up", "hidden", "active", "grad", "grad_hidden")]
    integers = dict.fromkeys(("rows", "tiles", "width", "inner"), "i32")
    aligned = ("width", "inner")
    found = [
        Launch(
            name, _gate_up_kernel, dict.fromkeys(tensors, dtype) | integers,
            {"KEEP": True, "SWAP": tile.swap, **tile.constants()}, aligned, tile.warps, tile.stages,
        )
        for name, dtype, tile in kinds
    ]  # fmt: skip
    halves = dict.fromkeys(tensors, "*bf16") | integers
    return [*found, Launch("swiglu gradient", _swiglu_backward_kernel, halves, {"BLOCK": _block(12288)}, aligned)]
