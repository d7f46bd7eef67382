"""The tiles of grouped products: how large they are on which chip, and which expert every tile of rows belongs to.

Names: R rows, N experts, I tiles of rows.
"""

from dataclasses import dataclass

import torch

from longcat.kernels.chips import Chip

FEW_ROWS = 32  # rows an expert at or below which a program takes few of them


@dataclass(frozen=True)
class Tile:
    """What a program computes: `rows` x `columns` of the result, `depth` of the summed dimension at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def constants(self) -> dict[str, int]:
        return {"BLOCK_M": self.rows, "BLOCK_N": self.columns, "BLOCK_K": self.depth}

    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


# Products without tensor cores, where registers hold all operands.
EXACT = Tile(rows=64, columns=64, depth=16, warps=8, stages=2)
# 128 rows are two warp groups of wgmma on sm_90 and one tcgen05 instruction on sm_100; gfx942 has 64 KiB to share.
MANY = {
    "sm_90": Tile(rows=128, columns=128, depth=64, warps=8, stages=3),
    "sm_100": Tile(rows=128, columns=128, depth=64, warps=8, stages=3),
    "gfx942": Tile(rows=128, columns=128, depth=64, warps=8, stages=2),
}
FEW = {
    "sm_90": Tile(rows=16, columns=64, depth=128, warps=4, stages=3),
    "sm_100": Tile(rows=16, columns=64, depth=128, warps=4, stages=3),
    "gfx942": Tile(rows=16, columns=64, depth=64, warps=4, stages=2),
}


def choose(chip: Chip, dtype: torch.dtype, rows: int, experts: int) -> Tile:
    """The tile for `rows` rows over `experts` experts, by the mean: how they are spread is not known to the host."""
    if dtype != torch.float32 and rows <= FEW_ROWS * experts:
        return FEW[chip.name]
    return many_rows(chip, dtype)


def many_rows(chip: Chip, dtype: torch.dtype) -> Tile:
    """The tile where experts have many rows, and of the products that sum over rows."""
    return EXACT if dtype == torch.float32 else MANY[chip.name]


def schedule(ends_N: torch.Tensor, rows: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(expert_I, row_I), int32: the expert and the first row of every tile of `block` rows, made on the device.

    No tile holds rows of two experts and none is empty, but as the host does not know their number there are as many as
    there could be; the surplus has the expert N.
    """
    experts = ends_N.shape[0]
    starts_N = torch.cat((ends_N.new_zeros(1), ends_N[:-1]))
    tile_ends_N = torch.div(ends_N - starts_N + (block - 1), block, rounding_mode="floor").cumsum(0, dtype=torch.int32)
    tile_I = torch.arange(rows // block + min(experts, rows), dtype=torch.int32, device=ends_N.device)
    expert_I = torch.searchsorted(tile_ends_N, tile_I, right=True, out_int32=True)
    within_I = expert_I.clamp(max=experts - 1)
    tile_starts_N = torch.cat((tile_ends_N.new_zeros(1), tile_ends_N[:-1]))
    return expert_I, starts_N[within_I] + (tile_I - tile_starts_N[within_I]) * block
