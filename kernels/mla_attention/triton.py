"""Flash attention on GPUs, forward and backward: kernel launches and tile sizes.

Names: B batch, T queries, S keys, H heads, Q query and key width, V value width; lse the logarithm of the normaliser.
"""

from typing import Any

import torch
import triton
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip, chip_of
from longcat.kernels.mla_attention import reference
from longcat.kernels.mla_attention.documents import DocumentBounds
from longcat.kernels.mla_attention.triton_kernels import delta_kernel, forward_kernel, keys_kernel, queries_kernel
from longcat.kernels.mla_attention.window import Window

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 256
UNUSED = Window(2, 2, 2)  # sizes that are given and not read; a size of 1 would compile another kernel


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_BTHQ: torch.Tensor,
        k_BSHQ: torch.Tensor,
        v_BSHV: torch.Tensor,
        scale: float,
        spans_2BT: torch.Tensor | None,
        window: Window | None,
    ) -> torch.Tensor:
        batch, tokens, heads, _ = q_BTHQ.shape
        o_BTHV = torch.empty(batch, tokens, heads, v_BSHV.shape[-1], dtype=q_BTHQ.dtype, device=q_BTHQ.device)
        lse_BHT = torch.empty(batch, heads, tokens, dtype=torch.float32, device=q_BTHQ.device)
        if lse_BHT.numel():
            tiles, options = _tiles("forward", q_BTHQ, v_BSHV)
            begin_BT = o_BTHV if spans_2BT is None else spans_2BT[0]
            forward_kernel[(triton.cdiv(tokens, tiles["BLOCK_T"]) * batch * heads,)](
                q_BTHQ, k_BSHQ, v_BSHV, o_BTHV, lse_BHT, begin_BT, *_sizes(q_BTHQ, k_BSHQ, v_BSHV), scale,
                *(window or UNUSED), *_strides(q_BTHQ, k_BSHQ, v_BSHV), **tiles, DOCUMENTS=spans_2BT is not None,
                WINDOW=window is not None, **options,
            )  # fmt: skip
        ctx.save_for_backward(q_BTHQ, k_BSHQ, v_BSHV, o_BTHV, lse_BHT, spans_2BT)
        ctx.scale, ctx.window = scale, window
        return o_BTHV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_BTHQ, k_BSHQ, v_BSHV, o_BTHV, lse_BHT, spans_2BT = ctx.saved_tensors
        inputs, grad_BTHV = (q_BTHQ, k_BSHQ, v_BSHV), gradients[0].contiguous()
        batch, tokens, heads, _ = q_BTHQ.shape
        keys, flags = k_BSHQ.shape[1], {"DOCUMENTS": spans_2BT is not None, "WINDOW": ctx.window is not None}
        grad_q, grad_k, grad_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in inputs)
        begin_BT, end_BT = spans_2BT if spans_2BT is not None else (lse_BHT, lse_BHT)
        delta_BHT = torch.empty_like(lse_BHT)
        common = (q_BTHQ, k_BSHQ, v_BSHV, grad_BTHV, lse_BHT, delta_BHT)
        shapes = (*_sizes(*inputs), ctx.scale, *(ctx.window or UNUSED), *_strides(*inputs))
        if lse_BHT.numel():
            constants = _delta_constants(v_BSHV.shape[-1])
            delta_kernel[(triton.cdiv(lse_BHT.numel(), constants["ROWS"]),)](
                o_BTHV, grad_BTHV, delta_BHT, lse_BHT.numel(), tokens, heads, v_BSHV.shape[-1], **constants
            )
            tiles, options = _tiles("queries", q_BTHQ, v_BSHV)
            queries_kernel[(triton.cdiv(tokens, tiles["BLOCK_T"]) * batch * heads,)](
                *common, grad_q, begin_BT, *shapes, **tiles, **flags, **options
            )
        if grad_k.numel():
            tiles, options = _tiles("keys window" if flags["WINDOW"] else "keys", q_BTHQ, v_BSHV)
            keys_kernel[(triton.cdiv(keys, tiles["BLOCK_S"]) * batch * heads,)](
                *common, grad_k, grad_v, begin_BT, end_BT, *shapes, **tiles, **flags, **options
            )
        return grad_q, grad_k, grad_v, None, None, None


def _sizes(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor) -> tuple[int, ...]:
    return q_BTHQ.shape[1], k_BSHQ.shape[1], q_BTHQ.shape[2], q_BTHQ.shape[3], v_BSHV.shape[3]


def _strides(*inputs: torch.Tensor) -> tuple[int, ...]:
    return tuple(stride for x in inputs for stride in x.stride()[:3])


# (queries, keys, warps, stages) of a tile. Wide wgmma needs 64 rows per four warps, so eight warps have 128.
HOPPER = {"forward": (128, 64, 8, 3), "keys": (32, 128, 8, 2), "queries": (128, 64, 8, 2)}
HOPPER["keys window"] = (16, 128, 8, 2)  # with masks for most tiles, 32 queries would spill registers
CDNA = {"forward": (128, 64, 4, 1), "keys": (32, 64, 4, 1), "queries": (128, 32, 4, 1)}
TILES = {"sm_90": HOPPER, "sm_100": HOPPER, "gfx942": CDNA}
SMALL = (16, 16, 8, 1)  # without tensor cores, or for heads wider than 192 and 128
INTERPRETED = (128, 128, 1, 1)  # the interpreter's time depends on the number of operations, not on their size


def _split(width: int) -> tuple[int, int]:
    """Two powers of two that together cover `width` columns, the first as large as possible."""
    first = max(16, triton.next_power_of_2(width) // 2)
    return first, max(16, triton.next_power_of_2(max(width - first, 1)))


def _shape_constants(q_width: int, v_width: int) -> dict[str, Any]:
    first, rest = _split(q_width)
    value = max(16, triton.next_power_of_2(v_width))
    return {"FIRST": first, "REST": rest, "VALUE": value, "WHOLE": (q_width, v_width) == (first + rest, value)}


def _tiles(kernel: str, q_BTHQ: torch.Tensor, v_BSHV: torch.Tensor) -> tuple[dict[str, Any], dict[str, int]]:
    """Constants and compile options of a launch."""
    shape = _shape_constants(q_BTHQ.shape[-1], v_BSHV.shape[-1])
    if q_BTHQ.device.type == "cpu":
        tile = INTERPRETED
    elif q_BTHQ.dtype == torch.float32 or shape["FIRST"] + shape["REST"] + shape["VALUE"] > 320:
        tile = SMALL
    else:
        tile = _tile_of(chip_of(q_BTHQ.device), kernel)
    block_t, block_s, warps, stages = tile
    return {**shape, "BLOCK_T": block_t, "BLOCK_S": block_s}, {"num_warps": warps, "num_stages": stages}


def _tile_of(chip: Chip, kernel: str) -> tuple[int, int, int, int]:
    """That of the kernel, or of its form without a window."""
    tiles = TILES[chip.name]
    return tiles.get(kernel) or tiles[kernel.removesuffix(" window")]


def _delta_constants(v_width: int) -> dict[str, Any]:
    value = triton.next_power_of_2(v_width)
    return {"ROWS": 4096 // value, "VALUE": value}


def mla_attention(
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    documents: DocumentBounds | None,
    window: Window | None = None,
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`."""
    inputs = (q_BTHQ, k_BSHQ, v_BSHV)
    widths = (q_BTHQ.shape[-1], v_BSHV.shape[-1])
    if (
        {x.dtype for x in inputs} - {q_BTHQ.dtype}
        or q_BTHQ.dtype not in DTYPES
        or not 0 < min(widths) <= max(widths) <= MAX_WIDTH
    ):
        return reference.mla_attention(q_BTHQ, k_BSHQ, v_BSHV, scale, documents, window)
    dense = (x if x.stride(-1) == 1 else x.contiguous() for x in inputs)
    o_BTHV: torch.Tensor = _Attention.apply(*dense, scale, None if documents is None else documents.spans_2BT, window)
    return o_BTHV


def launches(chip: Chip) -> list[Launch]:
    """Launches for the widths of LongCat-Flash, 192 and 128, with and without documents and windows, and float32."""
    strides = [f"{x}_{axis}" for x in "qkv" for axis in ("batch", "token", "head")]
    integers = ("tokens", "keys", "heads", "q_width", "v_width", "rows", *Window._fields, *strides)
    tensors = ("q_ptr", "k_ptr", "v_ptr", "o_ptr", "grad_ptr", "grad_q_ptr", "grad_k_ptr", "grad_v_ptr")
    arguments = dict.fromkeys(("lse_ptr", "delta_ptr"), "*fp32") | dict.fromkeys(("begin_ptr", "end_ptr"), "*i32")
    arguments |= dict.fromkeys(integers, "i32") | {"scale": "fp32"}
    halves, singles = (arguments | dict.fromkeys(tensors, kind) for kind in ("*bf16", "*fp32"))
    aligned, shape = ("heads", "q_width", "v_width", *strides), _shape_constants(192, 128)

    found = [Launch("delta", delta_kernel, halves, _delta_constants(128), aligned)]
    kernels = {"forward": forward_kernel, "keys": keys_kernel, "queries": queries_kernel}
    for name, kernel in kernels.items():
        own = TILES[chip.name][name]
        variants = (
            ("", halves, own, False, False),
            (" documents", halves, own, True, False),
            (" window", halves, _tile_of(chip, f"{name} window"), True, True),
            (" float32", singles, SMALL, True, False),
        )
        for suffix, types, (block_t, block_s, warps, stages), documents, window in variants:
            constants = {**shape, "BLOCK_T": block_t, "BLOCK_S": block_s, "DOCUMENTS": documents, "WINDOW": window}
            found.append(Launch(name + suffix, kernel, types, constants, aligned, num_warps=warps, num_stages=stages))
    return found
