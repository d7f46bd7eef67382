"""The order of rows for grouped expert work; integers only."""

from typing import NamedTuple

import torch


class ExpertOrder(NamedTuple):
    """Both directions between slots (by token) and rows (by expert).

    slot_R: the slot `t * K + k` of every row.      token_R: its token t.
    ends_N: int32, one past the last row of every expert.
    row_TK: the row of every slot, -1 for a slot that has none.
    bag_R, bag_starts_T1: the rows of token t are `bag_R[bag_starts_T1[t]:bag_starts_T1[t + 1]]`.
    """

    slot_R: torch.Tensor
    token_R: torch.Tensor
    ends_N: torch.Tensor
    row_TK: torch.Tensor
    bag_R: torch.Tensor
    bag_starts_T1: torch.Tensor


def expert_order(experts_TK: torch.Tensor, num_experts: int) -> ExpertOrder:
    """See `kernels.expert_order.expert_order`."""
    tokens, topk = experts_TK.shape
    slots_S = experts_TK.flatten()
    counts_N = torch.bincount(slots_S, minlength=num_experts)[:num_experts]
    rows = int(counts_N.sum())
    # Zero-computation experts have the highest indices, so their slots end up behind the last row.
    slot_R = torch.sort(slots_S, stable=True).indices[:rows]
    row_S = torch.full_like(slots_S, -1).scatter_(0, slot_R, torch.arange(rows, device=slots_S.device))
    has_row_S = row_S >= 0
    starts_T1 = torch.zeros(tokens + 1, dtype=torch.int64, device=slots_S.device)
    torch.cumsum(has_row_S.view(tokens, topk).sum(1), dim=0, out=starts_T1[1:])
    return ExpertOrder(
        slot_R=slot_R,
        token_R=slot_R // topk,
        ends_N=counts_N.cumsum(0).to(torch.int32),
        row_TK=row_S.view(tokens, topk),
        bag_R=row_S[has_row_S],
        bag_starts_T1=starts_T1,
    )
