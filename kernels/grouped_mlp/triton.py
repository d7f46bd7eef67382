"""SwiGLU experts on GPUs, as grouped products over tiles of rows of one expert.

Gate and up are computed together and multiplied in registers. In the backward, the derivative of SwiGLU is fused with
the product with the down projection. Experts without rows have no tiles; the gradients of their weights are zero. Every
result is summed by one program in a fixed order, without atomics. Based on MegaBlocks (Gale et al. 2022) and the
grouped matrix product of the Triton tutorials.

Names: R rows, N experts, D model width, F expert width, G = 2F, I tiles of rows.
"""

from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip, chip_of
from longcat.kernels.grouped_mlp import reference
from longcat.kernels.grouped_mlp.tiles import EXACT, FEW, SOME, Tile, choose, many_rows, tile_count
from longcat.kernels.grouped_mlp.triton_kernels import (
    gate_up_kernel,
    grad_hidden_kernel,
    grad_weight_kernel,
    product_kernel,
    schedule_kernel,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


SCHEDULED = 8192  # comparisons of tiles with ends of experts per program of the schedule


def schedule(ends_N: torch.Tensor, rows: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(expert_I, row_I), int32: the expert and the first row of every tile of `block` rows, computed on the device.

    No tile has rows of two experts, and no tile is empty. The host does not know the number of tiles, so the maximum
    number is allocated; unused tiles have the expert N.
    """
    experts = ends_N.shape[0]
    tiles = tile_count(rows, experts, block)
    expert_I, row_I = (torch.empty(tiles, dtype=torch.int32, device=ends_N.device) for _ in range(2))
    if tiles:
        constants = _schedule_constants(experts)
        schedule_kernel[(triton.cdiv(tiles, constants["TILES"]),)](
            ends_N, expert_I, row_I, experts, tiles, ROWS=block, **constants
        )
    return expert_I, row_I


def _schedule_constants(experts: int) -> dict[str, int]:
    held = triton.next_power_of_2(experts)
    return {"EXPERTS": held, "TILES": max(1, SCHEDULED // held)}


class _Rows:
    """The rows of a call, split into tiles. Launches the kernels with one program per tile of rows and columns."""

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
                **flags, SWAP=self.tile.swap, **self.tile.constants(), **self.tile.options(),
            )  # fmt: skip

    def product(self, a_RK: torch.Tensor, b_NKC: torch.Tensor, transposed: bool) -> torch.Tensor:
        summed = a_RK.shape[1]
        columns = b_NKC.shape[1 if transposed else 2]
        out_RC = a_RK.new_empty(a_RK.shape[0], columns)
        self.launch(product_kernel, columns, (a_RK, b_NKC, out_RC), (summed, columns), TRANSPOSED=transposed)
        return out_RC

    def grad_weight(self, a_RM: torch.Tensor, b_RC: torch.Tensor) -> torch.Tensor:
        tile = many_rows(chip_of(a_RM.device), a_RM.dtype)
        experts, height, columns = self.ends_N.shape[0], a_RM.shape[1], b_RC.shape[1]
        out_NMC = a_RM.new_empty(experts, height, columns)
        programs = triton.cdiv(height, tile.rows) * triton.cdiv(columns, tile.columns)
        grad_weight_kernel[(programs, experts)](
            a_RM, b_RC, out_NMC, self.ends_N, height, columns, **tile.constants(), **tile.options()
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
        tiles.launch(gate_up_kernel, inner, tensors, (width, inner), KEEP=keep)
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
        tiles.launch(grad_hidden_kernel, inner, tensors, (width, inner))
        grad_down_NDF = tiles.grad_weight(grad_RD, active_RF)
        del active_RF
        grad_gate_up_NGD = tiles.grad_weight(grad_hidden_RG, rows_RD)
        return tiles.product(grad_hidden_RG, gate_up_NGD, transposed=False), grad_gate_up_NGD, grad_down_NDF, None, None


def grouped_mlp(
    rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
) -> torch.Tensor:
    """See `kernels.grouped_mlp.grouped_mlp`. Only kernels read `ends_N`, so its last value is not checked."""
    if rows_RD.dtype not in DTYPES or not rows_RD.dtype == gate_up_NGD.dtype == down_NDF.dtype:
        return reference.grouped_mlp(rows_RD, gate_up_NGD, down_NDF, ends_N)
    tensors = (rows_RD.contiguous(), gate_up_NGD.contiguous(), down_NDF.contiguous())
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    y_RD: torch.Tensor = _GroupedMLP.apply(*tensors, ends_N, keep)
    return y_RD


def launches(chip: Chip) -> list[Launch]:
    """Launches for LongCat-Flash: 512 experts, widths 6,144 and 2,048, with many, some and few rows, and in float32."""
    kinds = (
        ("", "bf16", many_rows(chip, torch.bfloat16)),
        (", some rows", "bf16", SOME[chip.name]),
        (", few rows", "bf16", FEW[chip.name]),
        (", float32", "fp32", EXACT),
    )
    found = [
        _launch(name + suffix, kernel, dtype, tile, flags)
        for suffix, dtype, tile in kinds
        for name, kernel, flags in (_KERNELS[:4] if tile.swap else _KERNELS)
    ]
    return [*found, _launch("schedule", schedule_kernel, "bf16", EXACT, {"ROWS": 64, **_schedule_constants(512)})]


_KERNELS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("gate and up", gate_up_kernel, {"KEEP": True}),
    ("down", product_kernel, {"TRANSPOSED": True}),
    ("hidden gradient", grad_hidden_kernel, {}),
    ("rows gradient", product_kernel, {"TRANSPOSED": False}),
    ("weight gradient", grad_weight_kernel, {}),
)


def _launch(name: str, kernel: Any, dtype: str, tile: Tile, flags: dict[str, Any]) -> Launch:
    names = ["rows", "gate_up", "hidden", "active", "a", "b", "out", "grad", "down", "grad_hidden"]
    arguments = {f"{tensor}_ptr": f"*{dtype}" for tensor in names}
    arguments |= {f"{tensor}_ptr": "*i32" for tensor in ("expert", "row", "ends")}
    sizes = ("width", "inner", "summed", "columns", "height")
    arguments |= dict.fromkeys((*sizes, "tiles", "experts"), "i32")
    given = {"SWAP": tile.swap, **flags, **tile.constants()}
    constants = {key: value for key, value in given.items() if key in kernel.arg_names}
    return Launch(name, kernel, arguments, constants, (*sizes, "experts"), tile.warps, tile.stages)
