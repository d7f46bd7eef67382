"""Attention over latents in pages on graphics processors: how its kernels are launched, and with which tiles.

Names: those of `kernels.mla_paged_decode`, R rotary width.
"""

from typing import Any

import torch
import triton

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip, chip_of
from longcat.kernels.mla_paged_decode import reference
from longcat.kernels.mla_paged_decode.triton_kernels import part_kernel, sum_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_LATENT, MAX_ROPE = 512, 128
PARTS = 64  # of a sequence at most
LEAST = 256  # positions of a part at least: below, writing the parts costs as much as reading what is cached

# (heads, positions, warps, stages) of a tile.
TILES = {"sm_90": (64, 64, 8, 3), "sm_100": (64, 32, 8, 3), "gfx942": (32, 32, 4, 1)}
SMALL = (16, 16, 4, 1)  # where tensor cores do not multiply
INTERPRETED = (64, 64, 1, 1)


def mla_paged_decode(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    page_table_BM: torch.Tensor,
    lengths_B: torch.Tensor,
    latent_width: int,
    scale: float,
) -> torch.Tensor:
    """See `kernels.mla_paged_decode.mla_paged_decode`."""
    rope_width = q_BTHE.shape[-1] - latent_width
    if not runs({q_BTHE.dtype, pages_PLE.dtype}, latent_width, rope_width):
        return reference.mla_paged_decode(q_BTHE, pages_PLE, page_table_BM, lengths_B, latent_width, scale)
    q_BTHC, q_BTHR = q_BTHE.split((latent_width, rope_width), dim=-1)
    pages_PLC, pages_PLR = pages_PLE.split((latent_width, rope_width), dim=-1)
    return decode_pages(q_BTHC, q_BTHR, pages_PLC, pages_PLR, page_table_BM, lengths_B, scale)


def runs(dtypes: set[torch.dtype], latent_width: int, rope_width: int) -> bool:
    """Whether the kernels take tensors of these dtypes and widths."""
    return dtypes in ({x} for x in DTYPES) and latent_width <= MAX_LATENT and rope_width <= MAX_ROPE


def decode_pages(
    q_BTHC: torch.Tensor,
    q_BTHR: torch.Tensor,
    pages_PLC: torch.Tensor,
    pages_PLR: torch.Tensor,
    page_table_BM: torch.Tensor,
    lengths_B: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """The operation on latents and rotary keys that may lie apart. Returns o_BTHC."""
    q_BTHC, q_BTHR, pages_PLC, pages_PLR, page_table_BM = (
        x if x.stride(-1) == 1 else x.contiguous() for x in (q_BTHC, q_BTHR, pages_PLC, pages_PLR, page_table_BM)
    )
    batch, tokens, heads, latent_width = q_BTHC.shape
    page_size, rows = pages_PLC.shape[1], tokens * heads
    capacity = page_table_BM.shape[1] * page_size
    parts = max(1, min(PARTS, triton.cdiv(capacity, LEAST)))
    o_BTHC = torch.empty(q_BTHC.shape, dtype=q_BTHC.dtype, device=q_BTHC.device)
    if not o_BTHC.numel():
        return o_BTHC
    mean_BNXC = torch.empty(batch, parts, rows, latent_width, dtype=torch.float32, device=q_BTHC.device)
    lse_BNX = torch.empty(batch, parts, rows, dtype=torch.float32, device=q_BTHC.device)
    lengths_B = lengths_B.contiguous()
    shape = _shape_constants(latent_width, q_BTHR.shape[-1])
    block_rows, block, warps, stages = _tile(q_BTHC, rows)
    part_kernel[(parts * triton.cdiv(rows, block_rows) * batch,)](
        q_BTHC, q_BTHR, pages_PLC, pages_PLR, page_table_BM, lengths_B, mean_BNXC, lse_BNX, tokens, heads, capacity,
        page_size, parts, latent_width, q_BTHR.shape[-1], scale, *q_BTHC.stride()[:3], *q_BTHR.stride()[:3],
        *pages_PLC.stride()[:2], *pages_PLR.stride()[:2], page_table_BM.stride(0), **shape, ROWS=block_rows,
        BLOCK=block, PARTS=PARTS, LEAST=LEAST, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    sum_kernel[(batch * rows,)](
        mean_BNXC, lse_BNX, lengths_B, o_BTHC, rows, capacity, parts, latent_width,
        LATENT=shape["LATENT"], PARTS=PARTS, LEAST=LEAST,
    )  # fmt: skip
    return o_BTHC


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
    """At the widths of LongCat-Flash, 512 and 64, with as many heads as a tile has rows, and in float32."""
    integers = [
        name for name in part_kernel.arg_names if name.endswith(("_batch", "_token", "_head", "_page", "_slot"))
    ]
    integers += ["tokens", "heads", "capacity", "page_size", "latent_width", "rope_width", "table_row", "rows"]
    tensors = ("q_latent_ptr", "q_rope_ptr", "latent_ptr", "rope_ptr", "o_ptr")
    arguments = dict.fromkeys(("mean_ptr", "lse_ptr"), "*fp32") | dict.fromkeys(("table_ptr", "lengths_ptr"), "*i32")
    arguments |= dict.fromkeys((*integers, "parts"), "i32") | {"scale": "fp32"}
    halves, singles = (arguments | dict.fromkeys(tensors, kind) for kind in ("*bf16", "*fp32"))
    aligned = [name for name in integers if name != "tokens"]
    shape, cut = _shape_constants(512, 64), {"PARTS": PARTS, "LEAST": LEAST}
    found = [Launch("sum", sum_kernel, halves, {**cut, "LATENT": shape["LATENT"]}, aligned)]
    for name, types, tile in (("part", halves, TILES[chip.name]), ("part float32", singles, SMALL)):
        rows, block, warps, stages = tile
        constants = {**shape, **cut, "ROWS": rows, "BLOCK": block}
        found.append(Launch(name, part_kernel, types, constants, aligned, num_warps=warps, num_stages=stages))
    return found
