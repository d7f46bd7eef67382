"""Attention over chosen positions on GPUs; see `triton_kernels` for the kernels.

Names: B rows, T queries, S positions, H heads, K chosen positions, C latent width, E width of a position, X rows and
positions together.
"""

from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip, chip_of
from longcat.kernels.mla_sparse import cpu, reference
from longcat.kernels.mla_sparse.triton_kernels import forward_kernel, positions_kernel, queries_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 512  # of latents; rotary keys may be as wide as 64
HEADS = 16  # of a program with one query
HEADS_OF_POSITIONS, WARPS_OF_POSITIONS = 8, 4
# (positions, warps, stages) of a block
TILES = {"sm_90": (32, 8, 3), "sm_100": (32, 8, 3), "gfx942": (16, 4, 1)}
SMALL = (16, 8, 1)  # without tensor cores
MAX_WIDTH_SMALL = 128  # wider latents in float32 spill registers
INTERPRETED = (32, 1, 1)


def mla_sparse(
    q_BTHE: torch.Tensor, e_BSE: torch.Tensor, chosen_BTK: torch.Tensor, latent_width: int, scale: float
) -> torch.Tensor:
    """See `kernels.mla_sparse.mla_sparse`."""
    rope_width = q_BTHE.shape[-1] - latent_width
    if q_BTHE.dtype == torch.float32 and latent_width > MAX_WIDTH_SMALL:
        return cpu.mla_sparse(q_BTHE, e_BSE, chosen_BTK, latent_width, scale)
    if q_BTHE.dtype not in DTYPES or e_BSE.dtype != q_BTHE.dtype or latent_width > MAX_WIDTH or rope_width > 64:
        return reference.mla_sparse(q_BTHE, e_BSE, chosen_BTK, latent_width, scale)
    inputs = q_BTHE.contiguous(), e_BSE.contiguous(), chosen_BTK.contiguous()
    o_BTHC: torch.Tensor = _Sparse.apply(*inputs, latent_width, scale)
    return o_BTHC


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHE: torch.Tensor, e_BSE: torch.Tensor, chosen_BTK: torch.Tensor, latent_width: int, scale: float
    ) -> torch.Tensor:
        batch, tokens, heads, width = q_BTHE.shape
        o_BTHC = q_BTHE.new_empty(batch, tokens, heads, latent_width)
        lse_BTH = torch.empty(batch, tokens, heads, dtype=torch.float32, device=q_BTHE.device)
        constants, options = _tile(q_BTHE, latent_width)
        forward_kernel[(batch * tokens * triton.cdiv(heads, HEADS),)](
            q_BTHE, e_BSE, chosen_BTK, o_BTHC, lse_BTH, tokens, e_BSE.shape[1], heads, chosen_BTK.shape[2],
            latent_width, width, scale, **constants, **options,
        )  # fmt: skip
        ctx.save_for_backward(q_BTHE, e_BSE, chosen_BTK, o_BTHC, lse_BTH)
        ctx.latent_width, ctx.scale = latent_width, scale
        return o_BTHC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_BTHE, e_BSE, chosen_BTK, o_BTHC, lse_BTH = ctx.saved_tensors
        batch, tokens, heads, width = q_BTHE.shape
        grad_o = gradients[0].contiguous()
        delta_BTH = (grad_o.float() * o_BTHC.float()).sum(-1)
        grad_q, grad_e = torch.empty_like(q_BTHE), torch.empty_like(e_BSE)
        shape = tokens, e_BSE.shape[1], heads, chosen_BTK.shape[2], ctx.latent_width, width, ctx.scale
        constants, options = _tile(q_BTHE, ctx.latent_width)
        queries_kernel[(batch * tokens * triton.cdiv(heads, HEADS),)](
            q_BTHE, e_BSE, chosen_BTK, grad_o, lse_BTH, delta_BTH, grad_q, *shape, **constants, **options
        )
        query_L, first_X = _queries_of_positions(chosen_BTK, e_BSE.shape[1])
        positions_kernel[(first_X.shape[0] - 1,)](
            q_BTHE, e_BSE, query_L, first_X, grad_o, lse_BTH, delta_BTH, grad_e, heads, ctx.latent_width, width,
            ctx.scale, **_constants(ctx.latent_width, width, HEADS_OF_POSITIONS), num_warps=WARPS_OF_POSITIONS,
        )  # fmt: skip
        return grad_q, grad_e, None, None, None


def _queries_of_positions(chosen_BTK: torch.Tensor, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries of all positions of all rows, one after the other in increasing order, and where those of each begin."""
    batch, _, count = chosen_BTK.shape
    offset_B11 = positions * torch.arange(batch, device=chosen_BTK.device)[:, None, None]
    place_L = torch.where(chosen_BTK < 0, batch * positions, chosen_BTK + offset_B11).view(-1)
    sorted_L, order_L = place_L.sort(stable=True)
    bounds_X = torch.arange(batch * positions + 1, device=chosen_BTK.device)
    return order_L // count, torch.searchsorted(sorted_L, bounds_X)


def _constants(latent_width: int, width: int, heads: int) -> dict[str, int]:
    latent, rope = (max(16, triton.next_power_of_2(max(x, 1))) for x in (latent_width, width - latent_width))
    return {"LATENT": latent, "ROPE": rope, "HEADS": heads}


def _tile(q_BTHE: torch.Tensor, latent_width: int) -> tuple[dict[str, int], dict[str, int]]:
    """Constants and compile options of a launch with one query a program."""
    if q_BTHE.device.type == "cpu":
        tile = INTERPRETED
    else:
        tile = SMALL if q_BTHE.dtype == torch.float32 else TILES[chip_of(q_BTHE.device).name]
    block, warps, stages = tile
    constants = _constants(latent_width, q_BTHE.shape[-1], HEADS) | {"BLOCK": block}
    return constants, {"num_warps": warps, "num_stages": stages}


def launches(chip: Chip) -> list[Launch]:
    """Launches for the widths of LongCat-Flash, 512 and 64, and in float32 for smaller ones."""
    tensors = ("q_ptr", "e_ptr", "o_ptr", "grad_o_ptr", "grad_q_ptr", "grad_e_ptr")
    arguments = dict.fromkeys(("chosen_ptr", "query_ptr", "first_ptr"), "*i64")
    arguments |= dict.fromkeys(("lse_ptr", "delta_ptr"), "*fp32") | {"scale": "fp32"}
    aligned = ("heads", "count", "latent_width", "width")
    arguments |= dict.fromkeys((*aligned, "tokens", "positions"), "i32")
    found = []
    for suffix, kind, latent, tile in (("", "*bf16", 512, TILES[chip.name]), (" float32", "*fp32", 128, SMALL)):
        block, warps, stages = tile
        types = arguments | dict.fromkeys(tensors, kind)
        constants = _constants(latent, latent + 64, HEADS) | {"BLOCK": block}
        options: dict[str, Any] = {"num_warps": warps, "num_stages": stages}
        found += [
            Launch(name + suffix, kernel, types, constants, aligned, **options)
            for name, kernel in (("forward", forward_kernel), ("queries", queries_kernel))
        ]
        of_positions = _constants(latent, latent + 64, HEADS_OF_POSITIONS)
        found.append(
            Launch("positions" + suffix, positions_kernel, types, of_positions, aligned, num_warps=WARPS_OF_POSITIONS)
        )
    return found
