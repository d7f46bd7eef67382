"""Causal attention without gradient in blocks of queries, one head at a time, with products of oneDNN.

On AMD cores with AVX-512, oneDNN computes these products at two to four times the rate of torch's batched product,
which is MKL's (`kernels.linear.cpu`). Scores of one head and block also stay in the second cache. oneDNN has no batched
product of float32 in torch, so there is a call for each head.

Additional names: X batch rows and heads together, U queries of a block, E keys visible to them.
"""

import torch

from longcat.kernels.linear import cpu as linear

BLOCK_QUERIES = 128
# Below these, calls take longer than products.
FEW_QUERIES, FEW_PAIRS = 64, 1 << 16


def takes(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor) -> bool:
    """Whether this form is the faster one for these inputs."""
    plain = q_BTHQ.dtype == torch.float32 and not torch.is_grad_enabled()
    tokens, positions = q_BTHQ.shape[1], k_BSHQ.shape[1]
    return plain and tokens >= FEW_QUERIES and tokens * positions >= FEW_PAIRS and linear.is_amd()


def mla_attention(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`, for rows of one document each."""
    batch, tokens, heads, _ = q_BTHQ.shape
    # Contiguous for each head: oneDNN takes a reference path for rows with gaps.
    inputs = (q_BTHQ * scale, k_BSHQ, v_BSHV)
    q_XTQ, k_XSQ, v_XSV = (x.transpose(1, 2).contiguous().flatten(0, 1) for x in inputs)
    o_BTHV = q_BTHQ.new_empty(batch, tokens, heads, v_BSHV.shape[-1])
    for row, (q_TQ, k_SQ, v_SV) in enumerate(zip(q_XTQ.unbind(), k_XSQ.unbind(), v_XSV.unbind(), strict=True)):
        _head(q_TQ, k_SQ, v_SV, o_BTHV[row // heads, :, row % heads])
    return o_BTHV


def _head(q_TQ: torch.Tensor, k_SQ: torch.Tensor, v_SV: torch.Tensor, o_TV: torch.Tensor) -> None:
    """Write the output of one head; queries are scaled."""
    product = torch.ops.mkldnn._linear_pointwise.default
    tokens, positions = q_TQ.shape[0], k_SQ.shape[0]
    for first in range(0, tokens, BLOCK_QUERIES):
        end = min(first + BLOCK_QUERIES, tokens)
        seen = positions - tokens + end
        scores_UE = product(q_TQ[first:end], k_SQ[:seen], None, "none", [], "")
        scores_UE[:, seen - end + first :].add_(_later(end - first))
        shares_UE = torch.softmax(scores_UE, dim=-1)
        o_TV[first:end] = product(shares_UE, v_SV[:seen].t(), None, "none", [], "")


def _later(queries: int) -> torch.Tensor:
    """Minus infinity for keys after the query, [U, U]."""
    return torch.full((queries, queries), float("-inf")).triu_(1)
