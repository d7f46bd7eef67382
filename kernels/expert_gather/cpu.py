"""Copy every token to the rows of its experts; the backward is one pass that sums each token's rows."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from longcat.kernels.expert_order import ExpertOrder


class _ExpertGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
        ctx.save_for_backward(*order.bags())
        return x_TD.index_select(0, order.token_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        bag_R, bag_starts_T1 = ctx.saved_tensors
        grad_RD = gradients[0].contiguous()
        return F.embedding_bag(bag_R, grad_RD, bag_starts_T1, mode="sum", include_last_offset=True), None


def expert_gather(x_TD: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """See `kernels.expert_gather.expert_gather`."""
    rows_RD: torch.Tensor = _ExpertGather.apply(x_TD, order.exact())
    return rows_RD
