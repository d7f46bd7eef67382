"""Causal attention on a CPU in blocks of queries, without computing scores of keys after the block.

Flash attention in torch requires values as wide as keys and reaches a third of the rate of a matrix product; batched
products over blocks of queries and heads reach two thirds. The backward recomputes the probabilities of a block with
the same calls and therefore the same bits, so memory stays linear in the length.

Additional names: X batch rows and heads together, U queries of a block, E keys visible to them.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.mla_attention import by_head
from longcat.kernels.mla_attention.documents import DocumentBounds
from longcat.kernels.mla_attention.sdpa import by_document, flash
from longcat.kernels.precision import accumulation_dtype

# Measured at widths 96 and 64 on one core, 512 keys, forward and backward of 32 heads: 109 ms; blocks of 64 and 256
# queries 115 and 127 ms; 32 heads at once 126 ms; flash attention 165 ms.
BLOCK_QUERIES, BLOCK_HEADS = 128, 8


def mla_attention(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, documents: DocumentBounds | None
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`."""
    exact = q_BTHQ.dtype == accumulation_dtype(q_BTHQ.dtype)
    version = _blocked if exact else flash
    if by_head.takes(q_BTHQ, k_BSHQ):
        version = by_head.mla_attention
    return by_document(version, q_BTHQ, k_BSHQ, v_BSHV, scale, documents)


def _blocked(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float) -> torch.Tensor:
    o_BTHV: torch.Tensor = _BlockedAttention.apply(q_BTHQ, k_BSHQ, v_BSHV, scale)
    return o_BTHV


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float
    ) -> torch.Tensor:
        q_XTQ, k_XSQ, v_XSV = (_by_head(x) for x in (q_BTHQ, k_BSHQ, v_BSHV))
        q_XTQ = q_XTQ * scale
        o_XTV = q_XTQ.new_empty(*q_XTQ.shape[:2], v_XSV.shape[-1])
        for heads, queries, keys in _blocks(q_XTQ, k_XSQ):
            probabilities_XUE = _probabilities(q_XTQ[heads, queries], k_XSQ[heads, keys])
            torch.bmm(probabilities_XUE, v_XSV[heads, keys], out=o_XTV[heads, queries])
        ctx.save_for_backward(q_XTQ, k_XSQ, v_XSV, o_XTV)
        ctx.scale, ctx.rows = scale, (q_BTHQ.shape[0], q_BTHQ.shape[2])
        return _by_token(o_XTV, ctx.rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_XTQ, k_XSQ, v_XSV, o_XTV = ctx.saved_tensors
        grad_XTV = _by_head(gradients[0])
        # The derivative of softmax needs sum_s p_s dp_s, which equals the dot product of the output and its gradient.
        along_XT1 = torch.linalg.vecdot(grad_XTV, o_XTV).unsqueeze(-1)
        grad_q_XTQ = torch.empty_like(q_XTQ)
        grad_k_XSQ, grad_v_XSV = torch.zeros_like(k_XSQ), torch.zeros_like(v_XSV)
        for heads, queries, keys in _blocks(q_XTQ, k_XSQ):
            q_XUQ, k_XEQ, grad_XUV = q_XTQ[heads, queries], k_XSQ[heads, keys], grad_XTV[heads, queries]
            probabilities_XUE = _probabilities(q_XUQ, k_XEQ)
            grad_v_XSV[heads, keys].baddbmm_(probabilities_XUE.transpose(1, 2), grad_XUV)
            grad_scores_XUE = torch.bmm(grad_XUV, v_XSV[heads, keys].transpose(1, 2))
            grad_scores_XUE.sub_(along_XT1[heads, queries]).mul_(probabilities_XUE)
            torch.bmm(grad_scores_XUE, k_XEQ, out=grad_q_XTQ[heads, queries])
            grad_k_XSQ[heads, keys].baddbmm_(grad_scores_XUE.transpose(1, 2), q_XUQ)
        grads = (grad_q_XTQ.mul_(ctx.scale), grad_k_XSQ, grad_v_XSV)
        return *(_by_token(grad, ctx.rows) for grad in grads), None


def _by_head(x_BTHW: torch.Tensor) -> torch.Tensor:
    return x_BTHW.transpose(1, 2).flatten(0, 1)


def _by_token(x_XTW: torch.Tensor, rows: tuple[int, int]) -> torch.Tensor:
    """`rows`: (batch rows, heads), the two factors of X."""
    return x_XTW.unflatten(0, rows).transpose(1, 2)


def _blocks(q_XTQ: torch.Tensor, k_XSQ: torch.Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of heads, queries and visible keys for every block."""
    (rows, tokens, _), keys = q_XTQ.shape, k_XSQ.shape[1]
    for row in range(0, rows, BLOCK_HEADS):
        for first in range(0, tokens, BLOCK_QUERIES):
            end = min(first + BLOCK_QUERIES, tokens)
            yield slice(row, row + BLOCK_HEADS), slice(first, end), slice(0, keys - tokens + end)


def _probabilities(q_XUQ: torch.Tensor, k_XEQ: torch.Tensor) -> torch.Tensor:
    """Attention probabilities of scaled queries that are the last of the E positions."""
    queries = q_XUQ.shape[1]
    scores_XUE = torch.bmm(q_XUQ, k_XEQ.transpose(1, 2))
    if queries > 1:
        scores_XUE[:, :, -queries:].add_(_triangle(queries, scores_XUE.dtype))
    return torch.softmax(scores_XUE, dim=-1)


@lru_cache(maxsize=256)
def _triangle(queries: int, dtype: torch.dtype) -> torch.Tensor:
    """Mask within a block: minus infinity for keys after the query."""
    return torch.full((queries, queries), float("-inf"), dtype=dtype).triu_(1)
