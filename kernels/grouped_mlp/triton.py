"""SwiGLU experts on graphics processors, as grouped products over tiles of rows that lie within one expert.

Gate and up are computed side by side and multiplied before they leave the registers; backward, the product with the
down projection ends in the derivative of SwiGLU. Experts without rows have no tiles; their weights' gradients are the
zeros of an empty sum. Every result is one program's sum in one order: no atomics. After MegaBlocks (Gale et al. 2022)
and the grouped matrix product of Triton's tutorials.

Names: R rows, N experts, D model width, F expert width, G = 2F, I tiles of rows; in kernels M rows, N columns and K the
summed dimension of a product.
"""

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip, chip_of
from longcat.kernels.grouped_mlp import reference
from longcat.kernels.grouped_mlp.tiles import EXACT, FEW, Tile, choose, many_rows, schedule

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The interpreter holds bfloat16 as 16-bit integers and multiplies those.
UPCAST = os.environ.get("TRITON_INTERPRET") == "1"


@triton.jit
def _place(tiles, columns, BLOCK_N: tl.constexpr):
    """(tile of rows, tile of columns) of a program: eight tiles of rows together, so that weights are read once."""
    program = tl.program_id(0)
    column_tiles = tl.cdiv(columns, BLOCK_N)
    group = program // (8 * column_tiles)
    height = tl.minimum(tiles - group * 8, 8)
    within = program % (8 * column_tiles)
    return group * 8 + within % height, within // height


@triton.jit
def _dot(a, b, total, UPCAST: tl.constexpr):
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _gate_up_kernel(
    rows_ptr, gate_up_ptr, hidden_ptr, active_ptr, expert_ptr, row_ptr, ends_ptr, tiles, experts, width, inner,
    KEEP: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    tile, column_tile = _place(tiles, inner, BLOCK_N)
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    if expert < experts:
        m = tl.load(row_ptr + tile).to(tl.int64) + tl.arange(0, BLOCK_M)[:, None]
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        k = tl.arange(0, BLOCK_K)
        in_m, in_n = m < tl.load(ends_ptr + expert), n < inner
        x_ptrs = rows_ptr + m * width + k[None, :]
        gate_ptrs = gate_up_ptr + expert * 2 * inner * width + n * width + k[:, None]
        up_ptrs = gate_ptrs + inner * width
        gate = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        up = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, width, BLOCK_K):
            in_k = k < width - start
            x = tl.load(x_ptrs + start, mask=in_m & in_k[None, :], other=0.0)
            gate = _dot(x, tl.load(gate_ptrs + start, mask=in_k[:, None] & in_n, other=0.0), gate, UPCAST)
            up = _dot(x, tl.load(up_ptrs + start, mask=in_k[:, None] & in_n, other=0.0), up, UPCAST)
        # Rounded before the multiplication, which the backward repeats from what is stored.
        dtype = active_ptr.dtype.element_ty
        gate, up = gate.to(dtype), up.to(dtype)
        if KEEP:
            tl.store(hidden_ptr + m * 2 * inner + n, gate, mask=in_m & in_n)
            tl.store(hidden_ptr + m * 2 * inner + inner + n, up, mask=in_m & in_n)
        gate = gate.to(tl.float32)
        active = gate / (1.0 + tl.exp(-gate)) * up.to(tl.float32)
        tl.store(active_ptr + m * inner + n, active.to(dtype), mask=in_m & in_n)


@triton.jit
def _product_kernel(
    a_ptr, b_ptr, out_ptr, expert_ptr, row_ptr, ends_ptr, tiles, experts, summed, columns,
    TRANSPOSED: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`out[r] = a[r] @ b[e]` with b[e] [K, N], or its transpose [N, K] where TRANSPOSED."""
    tile, column_tile = _place(tiles, columns, BLOCK_N)
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    if expert < experts:
        m = tl.load(row_ptr + tile).to(tl.int64) + tl.arange(0, BLOCK_M)[:, None]
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        in_m, in_n = m < tl.load(ends_ptr + expert), n < columns
        total = _sum(
            a_ptr + m * summed, b_ptr + expert * summed * columns, in_m, n, in_n, summed, columns,
            TRANSPOSED, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        tl.store(out_ptr + m * columns + n, total.to(out_ptr.dtype.element_ty), mask=in_m & in_n)


@triton.jit
def _sum(
    a_ptrs, b_ptr, in_m, n, in_n, summed, columns,
    TRANSPOSED: tl.constexpr, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BLOCK_K)
    if TRANSPOSED:
        b_ptrs, b_step = b_ptr + n * summed + k[:, None], 1
    else:
        b_ptrs, b_step = b_ptr + k[:, None] * columns + n, columns
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, summed, BLOCK_K):
        in_k = k < summed - start
        a = tl.load(a_ptrs + start + k[None, :], mask=in_m & in_k[None, :], other=0.0)
        b = tl.load(b_ptrs + start * b_step, mask=in_k[:, None] & in_n, other=0.0)
        total = _dot(a, b, total, UPCAST)
    return total


@triton.jit
def _grad_hidden_kernel(
    grad_ptr, down_ptr, hidden_ptr, grad_hidden_ptr, active_ptr, expert_ptr, row_ptr, ends_ptr, tiles, experts, width,
    inner, UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The gradient of gate and up, and the product of both once more, which the down projection's gradient needs."""
    tile, column_tile = _place(tiles, inner, BLOCK_N)
    expert = tl.load(expert_ptr + tile).to(tl.int64)
    if expert < experts:
        m = tl.load(row_ptr + tile).to(tl.int64) + tl.arange(0, BLOCK_M)[:, None]
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        in_m, in_n = m < tl.load(ends_ptr + expert), n < inner
        grad = _sum(
            grad_ptr + m * width, down_ptr + expert * width * inner, in_m, n, in_n, width, inner,
            False, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        # By halves, because registers do not hold a whole tile of everything below.
        left, right = tl.split(tl.permute(tl.reshape(grad, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N // 2)[None, :]
        pointers = (hidden_ptr, grad_hidden_ptr, active_ptr)
        _swiglu_backward(left, pointers, m, n, in_m, inner)
        _swiglu_backward(right, pointers, m, n + BLOCK_N // 2, in_m, inner)


@triton.jit
def _swiglu_backward(grad, pointers, m, n, in_m, inner):
    hidden_ptr, grad_hidden_ptr, active_ptr = pointers
    dtype = active_ptr.dtype.element_ty
    inside = in_m & (n < inner)
    gate_at = m * 2 * inner + n
    gate = tl.load(hidden_ptr + gate_at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(hidden_ptr + gate_at + inner, mask=inside, other=0.0).to(tl.float32)
    sigmoid = 1.0 / (1.0 + tl.exp(-gate))
    silu = gate * sigmoid
    tl.store(active_ptr + m * inner + n, (silu * up).to(dtype), mask=inside)
    tl.store(grad_hidden_ptr + gate_at + inner, (grad * silu).to(dtype), mask=inside)
    grad_gate = grad * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    tl.store(grad_hidden_ptr + gate_at, grad_gate.to(dtype), mask=inside)


@triton.jit
def _grad_weight_kernel(
    a_ptr, b_ptr, out_ptr, ends_ptr, height, columns,
    UPCAST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`out[e] = sum over the rows r of e: outer(a[r], b[r])`, [M, N]; zeros for an expert without rows."""
    expert = tl.program_id(1).to(tl.int64)
    tile, column_tile = _place(tl.cdiv(height, BLOCK_M), columns, BLOCK_N)
    end = tl.load(ends_ptr + expert)
    start = tl.load(ends_ptr + expert - 1, mask=expert > 0, other=0)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = column_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < height, n < columns
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for row in range(start, end, BLOCK_K):
        k = row + tl.arange(0, BLOCK_K).to(tl.int64)
        a = tl.load(a_ptr + k[None, :] * height + m[:, None], mask=in_m[:, None] & (k < end)[None, :], other=0.0)
        b = tl.load(b_ptr + k[:, None] * columns + n[None, :], mask=(k < end)[:, None] & in_n[None, :], other=0.0)
        total = _dot(a, b, total, UPCAST)
    place = expert * height * columns + m[:, None] * columns + n[None, :]
    tl.store(out_ptr + place, total.to(out_ptr.dtype.element_ty), mask=in_m[:, None] & in_n[None, :])


class _Rows:
    """The rows of a call, cut into tiles: launches the kernels whose programs are tiles of rows by tiles of columns."""

    def __init__(self, ends_N: torch.Tensor, rows: int, tile: Tile) -> None:
        self.ends_N, self.tile = ends_N, tile
        self.expert_I, self.row_I = schedule(ends_N, rows, tile.rows)

    def launch(
        self, kernel: Any, columns: int, tensors: tuple[torch.Tensor, ...], sizes: tuple[int, int], **flags: bool
    ) -> None:
        tiles = self.expert_I.shape[0]
        programs = tiles * triton.cdiv(columns, self.tile.columns)
        if programs:
            kernel[(programs,)](
                *tensors, self.expert_I, self.row_I, self.ends_N, tiles, self.ends_N.shape[0], *sizes,
                UPCAST=UPCAST, **flags, **self.tile.constants(), **self.tile.options(),
            )  # fmt: skip

    def product(self, a_RK: torch.Tensor, b_NKC: torch.Tensor, transposed: bool) -> torch.Tensor:
        summed = a_RK.shape[1]
        columns = b_NKC.shape[1 if transposed else 2]
        out_RC = a_RK.new_empty(a_RK.shape[0], columns)
        self.launch(_product_kernel, columns, (a_RK, b_NKC, out_RC), (summed, columns), TRANSPOSED=transposed)
        return out_RC

    def grad_weight(self, a_RM: torch.Tensor, b_RC: torch.Tensor) -> torch.Tensor:
        tile = many_rows(chip_of(a_RM.device), a_RM.dtype)
        experts, height, columns = self.ends_N.shape[0], a_RM.shape[1], b_RC.shape[1]
        out_NMC = a_RM.new_empty(experts, height, columns)
        programs = triton.cdiv(height, tile.rows) * triton.cdiv(columns, tile.columns)
        _grad_weight_kernel[(programs, experts)](
            a_RM, b_RC, out_NMC, self.ends_N, height, columns, UPCAST=UPCAST, **tile.constants(), **tile.options()
        )
        return out_NMC


class _GroupedMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor,
        keep: bool,
    ) -> torch.Tensor:  # fmt: skip
        (rows, width), (experts, _, inner) = rows_RD.shape, down_NDF.shape
        tiles = _Rows(ends_N, rows, choose(chip_of(rows_RD.device), rows_RD.dtype, rows, experts))
        hidden_RG = rows_RD.new_empty(rows if keep else 0, 2 * inner)
        active_RF = rows_RD.new_empty(rows, inner)
        tensors = (rows_RD, gate_up_NGD, hidden_RG, active_RF)
        tiles.launch(_gate_up_kernel, inner, tensors, (width, inner), KEEP=keep)
        ctx.save_for_backward(rows_RD, gate_up_NGD, down_NDF, hidden_RG)
        ctx.tiles = tiles
        return tiles.product(active_RF, down_NDF, transposed=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows_RD, gate_up_NGD, down_NDF, hidden_RG = ctx.saved_tensors
        tiles, inner = ctx.tiles, down_NDF.shape[2]
        rows, width = rows_RD.shape
        grad_RD = gradients[0].contiguous()
        grad_hidden_RG, active_RF = torch.empty_like(hidden_RG), rows_RD.new_empty(rows, inner)
        tensors = (grad_RD, down_NDF, hidden_RG, grad_hidden_RG, active_RF)
        tiles.launch(_grad_hidden_kernel, inner, tensors, (width, inner))
        grad_down_NDF = tiles.grad_weight(grad_RD, active_RF)
        del active_RF
        grad_gate_up_NGD = tiles.grad_weight(grad_hidden_RG, rows_RD)
        return tiles.product(grad_hidden_RG, gate_up_NGD, transposed=False), grad_gate_up_NGD, grad_down_NDF, None, None


def grouped_mlp(
    rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
) -> torch.Tensor:
    """See `kernels.grouped_mlp.grouped_mlp`. Does not read `ends_N` back, so it does not check where it ends."""
    if rows_RD.dtype not in DTYPES or not rows_RD.dtype == gate_up_NGD.dtype == down_NDF.dtype:
        return reference.grouped_mlp(rows_RD, gate_up_NGD, down_NDF, ends_N)
    tensors = (rows_RD.contiguous(), gate_up_NGD.contiguous(), down_NDF.contiguous())
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    y_RD: torch.Tensor = _GroupedMLP.apply(*tensors, ends_N, keep)
    return y_RD


def launches(chip: Chip) -> list[Launch]:
    """At the sizes of LongCat-Flash: 512 experts of 6,144 to 2,048, with many rows each, few, and in float32."""
    many, few = many_rows(chip, torch.bfloat16), FEW[chip.name]
    return [
        *(_launch(name, kernel, "bf16", many, flags) for name, kernel, flags in _KERNELS),
        *(_launch(f"{name}, few rows", kernel, "bf16", few, flags) for name, kernel, flags in _KERNELS[:4]),
        *(_launch(f"{name}, float32", kernel, "fp32", EXACT, flags) for name, kernel, flags in _KERNELS),
    ]


_KERNELS: tuple[tuple[str, Any, dict[str, bool]], ...] = (
    ("gate and up", _gate_up_kernel, {"KEEP": True}),
    ("down", _product_kernel, {"TRANSPOSED": True}),
    ("hidden gradient", _grad_hidden_kernel, {}),
    ("rows gradient", _product_kernel, {"TRANSPOSED": False}),
    ("weight gradient", _grad_weight_kernel, {}),
)


def _launch(name: str, kernel: Any, dtype: str, tile: Tile, flags: dict[str, bool]) -> Launch:
    names = ["rows", "gate_up", "hidden", "active", "a", "b", "out", "grad", "down", "grad_hidden"]
    arguments = {f"{tensor}_ptr": f"*{dtype}" for tensor in names}
    arguments |= {f"{tensor}_ptr": "*i32" for tensor in ("expert", "row", "ends")}
    sizes = ("width", "inner", "summed", "columns", "height")
    arguments |= dict.fromkeys((*sizes, "tiles", "experts"), "i32")
    constants = {"UPCAST": False, **flags, **tile.constants()}
    return Launch(name, kernel, arguments, constants, (*sizes, "experts"), tile.warps, tile.stages)
