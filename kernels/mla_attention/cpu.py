"""Causal attention on a CPU in tiles of queries and keys. Work is proportional to the pairs in the documents.

Half precision is computed in float32, except where flash attention of torch, which multiplies it directly, needs no
mask: whole documents.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.mla_attention import by_head, by_length
from longcat.kernels.mla_attention.documents import DocumentBounds
from longcat.kernels.mla_attention.pieces import Division, Piece, pieces_of, pieces_of_documents
from longcat.kernels.mla_attention.sdpa import by_document, flash
from longcat.kernels.mla_attention.tiles import Backward, Gradients, Inputs, Products, attend, prepare, write
from longcat.kernels.mla_attention.window import Window
from longcat.kernels.precision import accumulation_dtype

# Flash attention in torch masks every score if the queries are only the last ones. Above this many, the mask takes
# longer than the conversion to float32.
MASKED_SCORES = 1 << 22


def mla_attention(
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    documents: DocumentBounds | None,
    window: Window | None = None,
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`."""
    if documents is not None and documents.groups.has_short:
        return by_length.mla_attention(partial(mla_attention, window=window), q_BTHQ, k_BSHQ, v_BSHV, scale, documents)
    if by_head.takes(q_BTHQ, k_BSHQ):
        return by_document(partial(by_head.mla_attention, window=window), q_BTHQ, k_BSHQ, v_BSHV, scale, documents)
    if window is None and _flash_is_faster(q_BTHQ, k_BSHQ):
        return by_document(flash, q_BTHQ, k_BSHQ, v_BSHV, scale, documents)
    return tiled(q_BTHQ, k_BSHQ, v_BSHV, scale, documents, window)


def _flash_is_faster(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor) -> bool:
    half = q_BTHQ.dtype != accumulation_dtype(q_BTHQ.dtype)
    queries, keys = q_BTHQ.shape[1], k_BSHQ.shape[1]
    return half and (queries == keys or queries * keys <= MASKED_SCORES)


def tiled(
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    documents: DocumentBounds | None,
    window: Window | None = None,
) -> torch.Tensor:
    """`mla_attention` in tiles, for every type."""
    if documents is None:
        return _attend(q_BTHQ, k_BSHQ, v_BSHV, scale, pieces_of(q_BTHQ.shape[1], k_BSHQ.shape[1], window))
    q_1THQ, k_1THQ, v_1THV = (x.flatten(0, 1).unsqueeze(0) for x in (q_BTHQ, k_BSHQ, v_BSHV))
    o_1THV = _attend(q_1THQ, k_1THQ, v_1THV, scale, pieces_of_documents(documents, window))
    return o_1THV.view(*q_BTHQ.shape[:3], v_BSHV.shape[-1])


def _attend(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, pieces: list[Piece]
) -> torch.Tensor:
    division = Division(q_BTHQ.shape[0], q_BTHQ.shape[2], pieces)
    if torch.is_grad_enabled() and (q_BTHQ.requires_grad or k_BSHQ.requires_grad or v_BSHV.requires_grad):
        o_BTHV: torch.Tensor = _TiledAttention.apply(q_BTHQ, k_BSHQ, v_BSHV, scale, division)
        return o_BTHV
    return _output((q_BTHQ, k_BSHQ, v_BSHV), scale, division, lambda inputs: None)


def _output(
    tensors: tuple[torch.Tensor, ...], scale: float, division: Division, keep: Callable[[Inputs], None]
) -> torch.Tensor:
    """Returns o_BTHV; `keep` is called with the inputs of each group for the backward pass."""
    q_BTHQ, _, v_BSHV = tensors
    o_BTHV = v_BSHV.new_empty(*q_BTHQ.shape[:3], v_BSHV.shape[-1])
    products = Products(division.tile_values, accumulation_dtype(q_BTHQ.dtype))
    for group in division.groups:
        q, k, v, o = (group.of(x) for x in (*tensors, o_BTHV))
        inputs = prepare(q, k, v, scale)
        for piece in division.pieces:
            for block in piece.blocks():
                write(attend(inputs, piece, block, products), o[:, :, block.queries])
        keep(inputs)
    return o_BTHV


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, division: Division
    ) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        o_BTHV = _output((q_BTHQ, k_BSHQ, v_BSHV), scale, division, kept.extend)
        ctx.save_for_backward(o_BTHV, *kept)
        ctx.scale, ctx.division, ctx.shapes = scale, division, (q_BTHQ.shape, k_BSHQ.shape, v_BSHV.shape)
        return o_BTHV

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        o_BTHV, *kept = ctx.saved_tensors
        grads = [o_BTHV.new_empty(shape) for shape in ctx.shapes]
        products = [Products(ctx.division.tile_values, accumulation_dtype(o_BTHV.dtype)) for _ in range(2)]
        for index, group in enumerate(ctx.division.groups):
            inputs = Inputs(*kept[3 * index : 3 * index + 3])
            backward = Backward(inputs, group.of(o_BTHV), group.of(gradients[0]), ctx.scale, products)
            for piece in ctx.division.pieces:
                backward.differentiate(piece, Gradients(*(group.of(grad) for grad in grads)))
        return *grads, None, None
