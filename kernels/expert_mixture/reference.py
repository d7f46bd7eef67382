"""FFN experts composed of the operations for many tokens; each operation selects its version by device."""

import torch

from longcat.kernels.expert_combine import expert_combine
from longcat.kernels.expert_gather import expert_gather
from longcat.kernels.expert_order import expert_order
from longcat.kernels.grouped_mlp import grouped_mlp


def expert_mixture(
    x_TD: torch.Tensor,
    weights_TK: torch.Tensor,
    experts_TK: torch.Tensor,
    gate_up_NGD: torch.Tensor,
    down_NDF: torch.Tensor,
) -> torch.Tensor:
    """See `kernels.expert_mixture.expert_mixture`."""
    order = expert_order(experts_TK, down_NDF.shape[0])
    rows_RD = grouped_mlp(expert_gather(x_TD, order), gate_up_NGD, down_NDF, order.ends_N)
    return expert_combine(rows_RD, weights_TK, order)
