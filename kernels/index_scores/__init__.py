"""Scores of the lightning indexer, and the exact choice of the positions that a query attends to (DeepSeek-V3.2-Exp;
LongCat Sparse Attention, arXiv 2608.01662).

    I_ts = sum_j w_tj ReLU(q_tj . k_s)
    S_t  = first positions, last positions, and the greatest I_ts of the rest, K in all; ties to the lowest position

Names: B rows, T queries, S keys, J query heads of an indexer, I width of its heads, K chosen positions.
"""

import torch

from longcat.kernels.index_scores import cpu, reference
from longcat.kernels.index_scores.choose import ABSENT, Always, choose_rows, largest, restrict, row_counts
from longcat.kernels.mla_attention import DocumentBounds
from longcat.kernels.precision import accumulation_dtype
from longcat.kernels.select import KernelError, deferred, select

__all__ = ["ABSENT", "Always", "index_scores", "index_topk", "largest", "restrict", "row_counts"]

NONE = Always()
VERSIONS = {
    "reference": reference.index_scores,
    "cpu": cpu.index_scores,
    "triton": deferred("longcat.kernels.index_scores.triton", "index_scores"),
}


def index_scores(q_TJI: torch.Tensor, k_SI: torch.Tensor, w_TJ: torch.Tensor) -> torch.Tensor:
    """Scores I_TS of all pairs, at least float32, without a mask and without a gradient.

    Raises:
        KernelError: shapes that do not match.
    """
    heads, width = q_TJI.shape[1:]
    if k_SI.shape[-1] != width or w_TJ.shape != (q_TJI.shape[0], heads):
        raise KernelError(
            f"index_scores: {heads} heads of width {width} for {q_TJI.shape[0]} queries need keys of that width and as "
            f"many weights, got {k_SI.shape[-1]} and {tuple(w_TJ.shape)}"
        )
    version = select("index_scores", VERSIONS, q_TJI.device)
    with torch.no_grad():
        if not q_TJI.shape[0] or not k_SI.shape[0]:
            return k_SI.new_zeros(q_TJI.shape[0], k_SI.shape[0], dtype=accumulation_dtype(k_SI.dtype))
        return version(q_TJI, k_SI, w_TJ)


def index_topk(
    q_BTJI: torch.Tensor,
    k_BSI: torch.Tensor,
    w_BTJ: torch.Tensor,
    count: int,
    always: Always = NONE,
    documents: DocumentBounds | None = None,
    budgets_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """The `count` chosen positions of every query, int64 [B, T, K] in increasing order, then `ABSENT`.

    The T queries are the last of the S positions of their row, and see the positions up to their own. With `documents`,
    T = S and a query sees its own document. A query that sees no more than `count` positions attends to all of them.
    `budgets_B`: positions per query of every row, instead of `count`; never fewer than those that are always chosen. K
    is then the greatest of them. The matrix of scores is made in tiles of queries and never exists as a whole.

    Raises:
        KernelError: more queries than keys, or more positions are always chosen than `count`.
    """
    tokens, keys = q_BTJI.shape[1], k_BSI.shape[1]
    if tokens > keys or (documents is not None and tokens != keys):
        raise KernelError(f"index_topk: {tokens} queries cannot be the last of {keys} keys, or form documents of them")
    if always.total > count or count < 1:
        raise KernelError(f"index_topk: {always.total} positions are always chosen, of {count}")
    return choose_rows(index_scores, (q_BTJI, k_BSI, w_BTJ), count, always, documents, budgets_B)
