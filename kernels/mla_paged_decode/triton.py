"""Attention over paged latents on GPUs: kernel launches and tile sizes.

Names: those of `kernels.mla_paged_decode`, R rotary width.
"""

from typing import Any, NamedTuple

import torch
import triton

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip, chip_of, multiprocessors
from longcat.kernels.mla_paged_decode import reference
from longcat.kernels.mla_paged_decode.sequences import SequencePages
from longcat.kernels.mla_paged_decode.splits import LEAST, MOST, choose_splits
from longcat.kernels.mla_paged_decode.triton_kernels import part_kernel, sum_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_LATENT, MAX_ROPE = 512, 128
# (heads, positions, warps, stages) of a tile.
TILES = {"sm_90": (64, 64, 8, 3), "sm_100": (64, 32, 8, 3), "gfx942": (32, 32, 4, 1)}
SMALL = (16, 16, 4, 1)  # without tensor cores
INTERPRETED = (64, 64, 1, 1)


class Pages(NamedTuple):
    """Memory layout of latents and rotary keys: position n of a page is at offset `n * slot` from its start."""

    latent: torch.Tensor
    rope: torch.Tensor
    size: int
    latent_strides: tuple[int, int]  # (page, slot)
    rope_strides: tuple[int, int]


def mla_paged_decode(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    sequences: SequencePages,
    latent_width: int,
    scale: float,
    splits: int | None,
) -> torch.Tensor:
    """See `kernels.mla_paged_decode.mla_paged_decode`."""
    rope_width = q_BTHE.shape[-1] - latent_width
    if not runs({q_BTHE.dtype, pages_PLE.dtype}, latent_width, rope_width):
        return reference.mla_paged_decode(q_BTHE, pages_PLE, sequences, latent_width, scale, splits)
    q_BTHC, q_BTHR = q_BTHE.split((latent_width, rope_width), dim=-1)
    latent, rope = (_dense(x) for x in pages_PLE.split((latent_width, rope_width), dim=-1))
    strides = ((x.stride(0), x.stride(1)) for x in (latent, rope))
    pages = Pages(latent, rope, pages_PLE.shape[1], *strides)
    return decode_pages(q_BTHC, q_BTHR, pages, sequences.table_BM, sequences.lengths_B, scale, splits)


def runs(dtypes: set[torch.dtype], latent_width: int, rope_width: int) -> bool:
    """Whether the kernels take tensors of these dtypes and widths."""
    return dtypes in ({x} for x in DTYPES) and latent_width <= MAX_LATENT and rope_width <= MAX_ROPE


def decode_pages(
    q_BTHC: torch.Tensor,
    q_BTHR: torch.Tensor,
    pages: Pages,
    page_table_BM: torch.Tensor,
    lengths_B: torch.Tensor,
    scale: float,
    splits: int | None,
) -> torch.Tensor:
    """The operation on latents and rotary keys that may be in separate memory. Returns o_BTHC."""
    q_BTHC, q_BTHR, page_table_BM, lengths_B = (_dense(x) for x in (q_BTHC, q_BTHR, page_table_BM, lengths_B))
    batch, tokens, heads, latent_width = q_BTHC.shape
    rows, capacity = tokens * heads, page_table_BM.shape[1] * pages.size
    o_BTHC = torch.empty(q_BTHC.shape, dtype=q_BTHC.dtype, device=q_BTHC.device)
    if not o_BTHC.numel():
        return o_BTHC
    block_rows, block, warps, stages = _tile(q_BTHC, rows)
    blocks = batch * triton.cdiv(rows, block_rows)
    parts = splits or choose_splits(blocks, capacity, multiprocessors(q_BTHC.device))
    single = parts == 1
    mean_BNXC, lse_BNX = o_BTHC, o_BTHC  # not written if there is a single part
    if not single:
        mean_BNXC, lse_BNX = (
            torch.empty(batch, parts, rows, *width, dtype=torch.float32, device=q_BTHC.device)
            for width in ((latent_width,), ())
        )
    part_kernel[(parts * blocks,)](
        q_BTHC, q_BTHR, pages.latent, pages.rope, page_table_BM, lengths_B, mean_BNXC, lse_BNX, o_BTHC, tokens, heads,
        capacity, pages.size, parts, latent_width, q_BTHR.shape[-1], scale, *q_BTHC.stride()[:3],
        *q_BTHR.stride()[:3], *pages.latent_strides, *pages.rope_strides, page_table_BM.stride(0),
        **_shape_constants(latent_width, q_BTHR.shape[-1]), ROWS=block_rows, BLOCK=block, LEAST=LEAST, SINGLE=single,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    if not single:
        constants = _sum_constants(parts, latent_width)
        sum_kernel[(batch * rows, triton.cdiv(latent_width, constants["COLUMNS"]))](
            mean_BNXC, lse_BNX, lengths_B, o_BTHC, rows, capacity, parts, latent_width, **constants
        )
    return o_BTHC


def _dense(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _sum_constants(parts: int, latent_width: int) -> dict[str, int]:
    """Constants such that a program sums 4,096 values, 32 per thread, or a whole row."""
    held = triton.next_power_of_2(parts)
    columns = min(triton.next_power_of_2(latent_width), max(16, 4096 // held))
    return {"PARTS": held, "LEAST": LEAST, "COLUMNS": columns}


def _shape_constants(latent_width: int, rope_width: int) -> dict[str, Any]:
    latent, rope = (max(16, triton.next_power_of_2(max(width, 1))) for width in (latent_width, rope_width))
    return {"LATENT": latent, "ROPE": rope, "WHOLE": (latent, rope) == (latent_width, rope_width)}


def _tile(q_BTHC: torch.Tensor, rows: int) -> tuple[int, int, int, int]:
    if q_BTHC.device.type == "cpu":
        block_rows, *others = INTERPRETED
    elif q_BTHC.dtype == torch.float32:
        block_rows, *others = SMALL
    else:
        block_rows, *others = TILES[chip_of(q_BTHC.device).name]
    return min(block_rows, max(16, triton.next_power_of_2(rows))), *others


def launches(chip: Chip) -> list[Launch]:
    """Launches for the widths of LongCat-Flash, 512 and 64, with as many heads as a tile has rows, and in float32."""
    integers = [
        name for name in part_kernel.arg_names if name.endswith(("_batch", "_token", "_head", "_page", "_slot"))
    ]
    integers += ["tokens", "heads", "capacity", "page_size", "latent_width", "rope_width", "table_row", "rows"]
    tensors = ("q_latent_ptr", "q_rope_ptr", "latent_ptr", "rope_ptr", "o_ptr")
    arguments = dict.fromkeys(("mean_ptr", "lse_ptr"), "*fp32") | dict.fromkeys(("table_ptr", "lengths_ptr"), "*i32")
    arguments |= dict.fromkeys((*integers, "parts"), "i32") | {"scale": "fp32"}
    halves, singles = (arguments | dict.fromkeys(tensors, kind) for kind in ("*bf16", "*fp32"))
    aligned = [name for name in integers if name != "tokens"]
    shape = _shape_constants(512, 64)
    found = [Launch("sum", sum_kernel, halves, _sum_constants(MOST, 512), aligned)]
    own = TILES[chip.name]
    for name, types, tile in (("part", halves, own), ("single part", halves, own), ("part float32", singles, SMALL)):
        rows, block, warps, stages = tile
        constants = {**shape, "LEAST": LEAST, "ROWS": rows, "BLOCK": block, "SINGLE": name.startswith("single")}
        found.append(Launch(name, part_kernel, types, constants, aligned, num_warps=warps, num_stages=stages))
    return found
