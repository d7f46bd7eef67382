"""Sum of the weighted rows of every token in one pass, without the [T, K, D] copy of the reference."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from longcat.kernels.expert_order import ExpertOrder
from longcat.kernels.precision import accumulation_dtype


class _ExpertCombine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: torch.Tensor, weights_TK: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
        ctx.save_for_backward(rows_RD, weights_TK, order.slot_R, order.token_R, order.row_TK)
        bag_weights_R = weights_TK[order.row_TK >= 0]
        bag_R, bag_starts_T1 = order.bags()
        return F.embedding_bag(
            bag_R,
            rows_RD.contiguous(),
            bag_starts_T1,
            mode="sum",
            per_sample_weights=bag_weights_R,
            include_last_offset=True,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows_RD, weights_TK, slot_R, token_R, row_TK = ctx.saved_tensors
        grad_RD = gradients[0].index_select(0, token_R)
        dots_R = torch.linalg.vecdot(rows_RD, grad_RD)
        grad_weights_TK = torch.cat((dots_R, dots_R.new_zeros(1)))[row_TK]
        return grad_RD.mul_(weights_TK.flatten()[slot_R].unsqueeze(1)), grad_weights_TK, None


def expert_combine(rows_RD: torch.Tensor, weights_TK: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """See `kernels.expert_combine.expert_combine`."""
    wide, order = accumulation_dtype(rows_RD.dtype), order.exact()
    rows = order.slot_R.shape[0]
    real_RD = rows_RD if rows_RD.shape[0] == rows else rows_RD[:rows]
    y_TD: torch.Tensor = _ExpertCombine.apply(real_RD.to(wide), weights_TK.to(wide), order)
    return y_TD.to(rows_RD.dtype)
