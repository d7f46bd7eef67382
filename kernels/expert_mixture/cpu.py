"""The experts' contribution to few tokens without gradient, one selected expert after another.

Generation has so few rows that reading the weights is all the work: grouped products would start one product for each
expert, selected or not, and sorting rows would cost more than the rows.
"""

import torch
import torch.nn.functional as F

from kernels.expert_mixture import reference
from kernels.linear.cpu import linear

FEW_TOKENS = 16


def expert_mixture(
    x_TD: torch.Tensor,
    weights_TK: torch.Tensor,
    experts_TK: torch.Tensor,
    gate_up_NGD: torch.Tensor,
    down_NDF: torch.Tensor,
) -> torch.Tensor:
    """See `kernels.expert_mixture.expert_mixture`."""
    if torch.is_grad_enabled() or x_TD.shape[0] > FEW_TOKENS or x_TD.dtype != weights_TK.dtype:
        return reference.expert_mixture(x_TD, weights_TK, experts_TK, gate_up_NGD, down_NDF)
    y_TD = torch.zeros_like(x_TD)
    slots = _slots_by_expert(experts_TK, down_NDF.shape[0])
    for expert in sorted(slots):
        chosen_S = torch.tensor(slots[expert])
        token_S = chosen_S // experts_TK.shape[1]
        gate_SF, up_SF = linear(x_TD[token_S], gate_up_NGD[expert]).chunk(2, dim=-1)
        rows_SD = linear(F.silu(gate_SF).mul_(up_SF), down_NDF[expert])
        y_TD.index_add_(0, token_S, rows_SD.mul_(weights_TK.flatten()[chosen_S].unsqueeze(1)))
    return y_TD


def _slots_by_expert(experts_TK: torch.Tensor, num_experts: int) -> dict[int, list[int]]:
    """The slots `t * K + k` of every selected expert that has a network, in order."""
    slots: dict[int, list[int]] = {}
    for slot, expert in enumerate(experts_TK.flatten().tolist()):
        if expert < num_experts:
            slots.setdefault(expert, []).append(slot)
    return slots
