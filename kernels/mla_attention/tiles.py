"""Causal attention of a group of heads, tile by tile, forward and backward (FlashAttention 2, arXiv:2307.08691).

Only the scores of one tile exist at a time. They stay in the cache, so the rate does not fall with the length, and the
memory is linear in it. The forward pass keeps a reference and a sum of powers for every query; the backward pass
computes the probabilities again from the logarithm of the whole sum.

Queries contain the factor of base 2 and one more column, minus the reference or minus that logarithm, and keys a column
of ones. The product is then the exponent itself, and no pass over the scores subtracts. In the same way the gradient of
the output contains the subtrahend of the derivative of softmax. The base is 2 because torch's natural exponential (MKL)
takes a hundred times as long where the result underflows.

Names: X rows and heads of the group, T queries, S keys, U queries of a block, E keys of a tile, Q query and key width,
V value width, W one more than a width.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from longcat.kernels.mla_attention.pieces import KEYS, Block, Piece
from longcat.kernels.mla_attention.window import hidden
from longcat.kernels.precision import accumulation_dtype

# The reference of a query is its largest score among the keys of its own tile; other keys may exceed it. Only if a sum
# exceeds this, half way to overflow, the largest of all becomes the reference, and the block is computed again. The
# relative precision is the same.
LARGE_SUM = 2.0**64
# Sums of few columns over many queries are computed transposed, for which the products take two thirds of the time.
NARROW, MANY = 32, 1024
TO_BASE_2 = 1 / math.log(2)


class Inputs(NamedTuple):
    """Queries, keys and values of a group, contiguous, in the accumulation type."""

    q_XTW: torch.Tensor
    k_XSW: torch.Tensor
    v_XSV: torch.Tensor


class Gradients(NamedTuple):
    """Gradients of a group's queries, keys and values, [rows, heads, tokens, width], of any strides."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


class Products:
    """Batched products; scores go to the same memory for one tile after another."""

    def __init__(self, values: int, dtype: torch.dtype) -> None:
        """`values`: those of the largest tile."""
        self.memory = torch.empty(values, dtype=dtype)

    def scores(self, a_XUW: torch.Tensor, b_XEW: torch.Tensor) -> torch.Tensor:
        """`a b^T` [X, U, E], which the next call overwrites."""
        shape = (*a_XUW.shape[:2], b_XEW.shape[1])
        return torch.bmm(a_XUW, b_XEW.transpose(1, 2), out=self.memory[: math.prod(shape)].view(shape))

    def add(self, sum_XUV: torch.Tensor, a_XUE: torch.Tensor, b_XEV: torch.Tensor) -> None:
        """Add `a b`."""
        sum_XUV.baddbmm_(a_XUE, b_XEV)


def prepare(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> Inputs:
    """The inputs from [rows, heads, tokens, width] of any strides; references are zero."""
    inputs = Inputs(_widened(q, 0.0), _widened(k, 1.0), v.to(accumulation_dtype(v.dtype)).contiguous())
    inputs.q_XTW.mul_(scale * TO_BASE_2)
    return Inputs(*(x.flatten(0, 1) for x in inputs))


def attend(inputs: Inputs, piece: Piece, block: Block, products: Products) -> torch.Tensor:
    """The output of a block, [X, U, V]. The last column of its queries becomes minus the logarithms of their sums."""
    q_XUW = inputs.q_XTW[:, block.queries]
    near, *far = piece.tiles(block)
    s_XUE = _scores(inputs, piece, block, near, products)
    top_XU1 = s_XUE.amax(-1, keepdim=True)
    q_XUW[..., -1:].sub_(top_XU1)
    sum_XU1, o_XUV = _sums(inputs, piece, block, s_XUE.sub_(top_XU1), products)
    fits_XU1 = sum_XU1 <= LARGE_SUM
    if far and not fits_XU1.all():
        tops_YXU1 = torch.stack([_scores(inputs, piece, block, tile, products).amax(-1, keepdim=True) for tile in far])
        q_XUW[..., -1:].sub_(tops_YXU1.amax(0).masked_fill_(fits_XU1, 0.0))
        s_XUE = _scores(inputs, piece, block, near, products)
        sum_XU1, o_XUV = _sums(inputs, piece, block, s_XUE, products)
    q_XUW[..., -1:].sub_(sum_XU1.log2())
    return o_XUV.div_(sum_XU1)


def _scores(inputs: Inputs, piece: Piece, block: Block, tile: tuple[int, int], products: Products) -> torch.Tensor:
    """Exponents of a block and a tile, of which the positions that a query does not see are minus infinity."""
    s_XUE = products.scores(inputs.q_XTW[:, block.queries], inputs.k_XSW[:, piece.places(tile)])
    return _hide(s_XUE, piece, block, tile)


def _sums(
    inputs: Inputs, piece: Piece, block: Block, s_XUE: torch.Tensor, products: Products
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of the powers [X, U, 1], and of the values by them [X, U, V]; `s_XUE` are the scores of the first tile."""
    shape = s_XUE.shape[:2]
    sum_XU1, o_XUV = s_XUE.new_zeros(*shape, 1), s_XUE.new_zeros(*shape, inputs.v_XSV.shape[-1])
    for number, tile in enumerate(piece.tiles(block)):
        if number:
            s_XUE = _scores(inputs, piece, block, tile, products)
        s_XUE.exp2_()
        sum_XU1.add_(s_XUE.sum(-1, keepdim=True))
        products.add(o_XUV, s_XUE, inputs.v_XSV[:, piece.places(tile)])
    return sum_XU1, o_XUV


class Backward:
    """The backward pass of a group whose blocks have all been through `attend`."""

    def __init__(self, inputs: Inputs, o: torch.Tensor, grad: torch.Tensor, scale: float, products: list[Products]):
        """`o` and `grad` are [rows, heads, tokens, width], of any strides; `products` are two with their own memory."""
        self.q_XTW, self.k_XSW, self.scale = inputs.q_XTW, inputs.k_XSW, scale
        self.v_XSW = _widened(inputs.v_XSV, 1.0)
        wide = _widened(grad, 0.0)
        # The derivative of softmax needs sum_s p_s dp_s, which equals the dot product of the output and its gradient.
        torch.neg(torch.linalg.vecdot(wide[..., :-1], o.to(wide.dtype)), out=wide[..., -1])
        self.grad_XTW = wide.flatten(0, 1)
        self.probabilities, self.slopes = products

    def differentiate(self, piece: Piece, grads: Gradients) -> None:
        """Write the gradients of a piece."""
        blocks = list(piece.blocks())
        grads_XUQ = [_zeros(self.q_XTW[:, block.queries]) for block in blocks]
        seers: dict[int, list[tuple[int, tuple[int, int]]]] = {start: [] for start in range(0, piece.length, KEYS)}
        for number, block in enumerate(blocks):
            for tile in piece.tiles(block):
                seers[tile[0] // KEYS * KEYS].append((number, tile))
        for start, seen in seers.items():
            keys = piece.places((start, min(start + KEYS, piece.length)))
            grad_k_XEQ, grad_v_XEV = (_transposed_sum(x[:, keys], piece.length) for x in (self.k_XSW, self.v_XSW))
            for number, tile in seen:
                own_k_XEQ, own_v_XEV = (x[:, tile[0] - start : tile[1] - start] for x in (grad_k_XEQ, grad_v_XEV))
                self._tile(piece, blocks[number], tile, Gradients(grads_XUQ[number], own_k_XEQ, own_v_XEV))
            write(grad_k_XEQ.mul_(1 / TO_BASE_2), grads.k[:, :, keys])
            write(grad_v_XEV, grads.v[:, :, keys])
        for block, grad_q_XUQ in zip(blocks, grads_XUQ, strict=True):
            write(grad_q_XUQ.mul_(self.scale), grads.q[:, :, block.queries])

    def _tile(self, piece: Piece, block: Block, tile: tuple[int, int], sums: Gradients) -> None:
        q_XUW, grad_XUW, keys = self.q_XTW[:, block.queries], self.grad_XTW[:, block.queries], piece.places(tile)
        k_XEW, v_XEW = self.k_XSW[:, keys], self.v_XSW[:, keys]
        p_XUE = _hide(self.probabilities.scores(q_XUW, k_XEW), piece, block, tile).exp2_()
        _add_transposed(sums.v, p_XUE, grad_XUW[..., :-1])
        slopes_XUE = self.slopes.scores(grad_XUW, v_XEW).mul_(p_XUE)
        sums.q.baddbmm_(slopes_XUE, k_XEW[..., :-1])
        _add_transposed(sums.k, slopes_XUE, q_XUW[..., :-1])


def write(x_XUW: torch.Tensor, target: torch.Tensor) -> None:
    """Copy to [rows, heads, tokens, width] of any strides."""
    target.copy_(x_XUW.unflatten(0, target.shape[:2]))


def _widened(x_TQ: torch.Tensor, value: float) -> torch.Tensor:
    """Contiguous, in the accumulation type, with one more column of this value; [..., T, Q] to [..., T, W]."""
    x_TW = x_TQ.new_empty((*x_TQ.shape[:-1], x_TQ.shape[-1] + 1), dtype=accumulation_dtype(x_TQ.dtype))
    x_TW[..., :-1] = x_TQ
    x_TW[..., -1] = value
    return x_TW


def _zeros(like_XTW: torch.Tensor) -> torch.Tensor:
    """Zeros without the last column."""
    return like_XTW.new_zeros(*like_XTW.shape[:2], like_XTW.shape[2] - 1)


def _transposed_sum(like_XEW: torch.Tensor, queries: int) -> torch.Tensor:
    """Zeros without the last column, as `_add_transposed` is fastest with."""
    rows, keys, width = like_XEW.shape[0], like_XEW.shape[1], like_XEW.shape[2] - 1
    if width <= NARROW and queries >= MANY:
        return like_XEW.new_zeros(rows, width, keys).transpose(1, 2)
    return like_XEW.new_zeros(rows, keys, width)


def _add_transposed(sum_XEQ: torch.Tensor, a_XUE: torch.Tensor, b_XUQ: torch.Tensor) -> None:
    """Add `a^T b`."""
    if sum_XEQ.stride(2) == 1:
        sum_XEQ.baddbmm_(a_XUE.transpose(1, 2), b_XUQ)
    else:
        sum_XEQ.transpose(1, 2).baddbmm_(b_XUQ.transpose(1, 2), a_XUE)


def _hide(s_XUE: torch.Tensor, piece: Piece, block: Block, tile: tuple[int, int]) -> torch.Tensor:
    """Set the scores of positions that a query does not see to minus infinity."""
    if tile[1] == block.seen:
        _hide_later(s_XUE)
    window = piece.window
    if window is not None and window.sinks <= tile[1] and tile[0] < window.lowest(block.seen - 1):
        # Away from the sinks, masks at equal distances are equal.
        before = 0 if tile[0] < window.sinks else tile[0] // window.block * window.block - window.sinks
        queries, keys = (block.position - before, block.seen - before), (tile[0] - before, tile[1] - before)
        s_XUE.masked_fill_(hidden(queries, keys, window), float("-inf"))
    return s_XUE


def _hide_later(s_XUE: torch.Tensor) -> torch.Tensor:
    """Set the scores of keys after the query to minus infinity, where the queries are the last of the positions."""
    queries = s_XUE.shape[1]
    if queries > 1:
        s_XUE[:, :, -queries:].add_(_triangle(queries, s_XUE.dtype))
    return s_XUE


@lru_cache(maxsize=256)
def _triangle(queries: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((queries, queries), float("-inf"), dtype=dtype).triu_(1)
