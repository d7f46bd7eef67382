"""The order of rows for grouped expert work: rows sorted by expert, zero-computation experts left out.

Names: T tokens, K slots a token, N experts with a network, R rows (slots that chose one of them).
"""

import torch

from longcat.kernels.expert_order import reference, sort
from longcat.kernels.expert_order.reference import ExpertOrder
from longcat.kernels.select import select

__all__ = ["ExpertOrder", "expert_order"]

VERSIONS = {"reference": reference.expert_order, "triton": sort.expert_order}


def expert_order(experts_TK: torch.Tensor, num_experts: int) -> ExpertOrder:
    """Sort the slots of `experts_TK` by expert and drop those of index `num_experts` and above.

    Rows of one expert keep the order of their tokens, so the result does not depend on anything but `experts_TK`.
    """
    return select("expert_order", VERSIONS, experts_TK.device)(experts_TK, num_experts)
