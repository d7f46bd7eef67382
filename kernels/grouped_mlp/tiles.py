"""Tile sizes of grouped products by chip and by the mean number of rows per expert."""

from dataclasses import dataclass, replace

import torch

from longcat.kernels.chips import Chip

FEW_ROWS, SOME_ROWS = 8, 32  # mean rows per expert up to which a program takes 16 rows, and 32 rows


@dataclass(frozen=True)
class Tile:
    """The part of the result that a program computes: `rows` x `columns`, `depth` of the summed dimension at a time.

    swap: compute the transpose, so that the columns are the dimension of which tensor cores take 64.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    swap: bool = False

    def constants(self) -> dict[str, int]:
        return {"BLOCK_M": self.rows, "BLOCK_N": self.columns, "BLOCK_K": self.depth}

    def options(self) -> dict[str, int]:
        return {"num_warps": self.warps, "num_stages": self.stages}


# Products without tensor cores, whose operands are all in registers.
EXACT = Tile(rows=64, columns=64, depth=16, warps=8, stages=2)
# 128 rows are two warp groups of wgmma on sm_90 and one tcgen05 instruction on sm_100; gfx942 has 64 KiB of shared
# memory.
MANY = {
    "sm_90": Tile(rows=128, columns=128, depth=64, warps=8, stages=3),
    "sm_100": Tile(rows=128, columns=128, depth=64, warps=8, stages=3),
    "gfx942": Tile(rows=128, columns=128, depth=64, warps=8, stages=2),
}
# 64 columns are the rows of one wgmma or tcgen05 instruction; matrix cores of gfx942 take 16 rows or columns.
FEW = {
    "sm_90": Tile(rows=16, columns=64, depth=128, warps=4, stages=3, swap=True),
    "sm_100": Tile(rows=16, columns=64, depth=128, warps=4, stages=3, swap=True),
    "gfx942": Tile(rows=16, columns=64, depth=64, warps=4, stages=2, swap=True),
}
SOME = {name: replace(tile, rows=32) for name, tile in FEW.items()}


def choose(chip: Chip, dtype: torch.dtype, rows: int, experts: int) -> Tile:
    """The tile for `rows` rows of `experts` experts, by the mean, because the host does not know their distribution."""
    if dtype != torch.float32 and rows <= SOME_ROWS * experts:
        return (FEW if rows <= FEW_ROWS * experts else SOME)[chip.name]
    return many_rows(chip, dtype)


def many_rows(chip: Chip, dtype: torch.dtype) -> Tile:
    """The tile for experts with many rows, and for products that sum over rows."""
    return EXACT if dtype == torch.float32 else MANY[chip.name]


def tile_count(rows: int, experts: int, block: int) -> int:
    """Maximum number of tiles of `block` rows for `rows` rows of `experts` experts; a tile has rows of one expert."""
    return rows // block + min(experts, rows)
