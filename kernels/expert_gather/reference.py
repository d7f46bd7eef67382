"""Copy every token to the rows of its experts, the reference implementation."""

import torch

from longcat.kernels.expert_order import ExpertOrder


def expert_gather(x_TD: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """See `kernels.expert_gather.expert_gather`."""
    return x_TD[order.exact().token_R]
