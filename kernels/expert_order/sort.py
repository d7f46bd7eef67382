"""The order of rows on graphics processors, which wait for the host once: to learn the number of rows.

The stable sort of torch on the device is what a kernel would be: integers in, the only right answer out, and a small
share of the experts' work. Counting and selecting by mask, as the plain version does beside it, would wait again.
"""

import torch

from longcat.kernels.expert_order.reference import ExpertOrder


def expert_order(experts_TK: torch.Tensor, num_experts: int) -> ExpertOrder:
    """See `kernels.expert_order.expert_order`."""
    tokens, topk = experts_TK.shape
    device = experts_TK.device
    sorted_S, slot_S = torch.sort(experts_TK.flatten(), stable=True)
    ends_N = torch.searchsorted(sorted_S, torch.arange(num_experts, device=device), right=True)
    rows = int(ends_N[-1])
    slot_R = slot_S[:rows]
    row_S = torch.full_like(slot_S, -1).scatter_(0, slot_R, torch.arange(rows, device=device))
    has_row_S = row_S >= 0
    ends_S = has_row_S.cumsum(0)
    # Slots without a row all go to one place past the end, which is cut off.
    place_S = (ends_S - 1).where(has_row_S, rows)
    bag_R = slot_S.new_empty(rows + 1).scatter_(0, place_S, row_S)[:rows]
    starts_T1 = torch.zeros(tokens + 1, dtype=torch.int64, device=device)
    starts_T1[1:] = ends_S.view(tokens, topk)[:, -1]
    return ExpertOrder(
        slot_R=slot_R,
        token_R=slot_R // topk,
        ends_N=ends_N.to(torch.int32),
        row_TK=row_S.view(tokens, topk),
        bag_R=bag_R,
        bag_starts_T1=starts_T1,
    )
