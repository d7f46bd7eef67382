"""Sum the weighted rows of every token.

Names: T tokens, K slots per token, R rows, D width.
"""

import torch

from longcat.kernels.expert_combine import cpu, reference
from longcat.kernels.expert_order import ExpertOrder
from longcat.kernels.select import deferred, select

VERSIONS = {
    "reference": reference.expert_combine,
    "cpu": cpu.expert_combine,
    "triton": deferred("longcat.kernels.expert_combine.triton", "expert_combine"),
}


def expert_combine(rows_RD: torch.Tensor, weights_TK: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """`y_TD[t] = sum over the slots k of t that have a row: weights_TK[t, k] * rows_RD[order.row_TK[t, k]]`.

    The sum is a gather in the order of the slots, in float32 or better, and so is its backward: deterministic, without
    scatter-add and atomics. Returns the dtype of `rows_RD`; a token without rows gets zeros. Rows from
    `order.ends_N[-1]` on, which belong to no slot, are not read; the `triton` version leaves their gradient unset.
    """
    return select("expert_combine", VERSIONS, rows_RD.device)(rows_RD, weights_TK, order)
