"""Copy every token to the rows of its experts.

Names: T tokens, R rows, D width.
"""

import torch

from longcat.kernels.expert_gather import cpu, reference
from longcat.kernels.expert_order import ExpertOrder
from longcat.kernels.select import deferred, select

VERSIONS = {
    "reference": reference.expert_gather,
    "cpu": cpu.expert_gather,
    "triton": deferred("longcat.kernels.expert_gather.triton", "expert_gather"),
}


def expert_gather(x_TD: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """`rows_RD[r] = x_TD[order.token_R[r]]` for every row r below `order.ends_N[-1]`; later rows are undefined.

    The backward sums the rows of every token in a fixed order, without scatter-add and atomics. It does not read the
    gradient of later rows.
    """
    return select("expert_gather", VERSIONS, x_TD.device)(x_TD, order)
