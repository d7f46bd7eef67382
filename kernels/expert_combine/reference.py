"""Sum of the weighted rows of every token, the reference implementation."""

import torch

from longcat.kernels.expert_order import ExpertOrder


def expert_combine(rows_RD: torch.Tensor, weights_TK: torch.Tensor, order: ExpertOrder) -> torch.Tensor:
    """See `kernels.expert_combine.expert_combine`."""
    # Slots without a row have the index -1, which selects this row of zeros.
    padded = torch.cat((rows_RD, rows_RD.new_zeros(1, rows_RD.shape[1])))
    weighted_TKD = padded[order.row_TK] * weights_TK.unsqueeze(-1)
    return weighted_TKD.sum(dim=1).to(rows_RD.dtype)
