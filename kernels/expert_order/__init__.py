"""Row order for grouped experts: rows sorted by expert, without zero-computation experts.

Names: T tokens, K slots per token, N experts with a network, R rows (slots that chose one of them, and padding).
"""

import torch

from longcat.kernels.expert_order import reference
from longcat.kernels.expert_order.reference import ExpertOrder
from longcat.kernels.select import deferred, select

__all__ = ["ExpertOrder", "expert_order"]

VERSIONS = {
    "reference": reference.expert_order,
    "triton": deferred("longcat.kernels.expert_order.triton", "expert_order"),
}


def expert_order(experts_TK: torch.Tensor, num_experts: int) -> ExpertOrder:
    """Sort the slots of `experts_TK` by expert and drop those of index `num_experts` and above.

    Rows of one expert keep the order of their tokens, so the result depends only on `experts_TK`, int64. The `triton`
    version never synchronizes with the device: it returns T * K rows, of which those from `ends_N[-1]` on are padding.
    The reference returns `ends_N[-1]` rows.
    """
    return select("expert_order", VERSIONS, experts_TK.device)(experts_TK, num_experts)
