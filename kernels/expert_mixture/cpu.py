"""The experts' contribution to few tokens without gradient, one selected expert after another.

Generation has so few rows that reading the weights is all the work: grouped products would start one product for each
expert, selected or not. So every selected expert is two products, in the form that streams its weights, and all that
lies between and behind them is done once for the rows of all experts together.

Names beside those of the operation: R rows, the slots with a network, ordered by expert.
"""

import torch
import torch.nn.functional as F

from kernels.expert_mixture import reference
from kernels.linear.cpu import few_rows

FEW_TOKENS = 16


def expert_mixture(
    x_TD: torch.Tensor,
    weights_TK: torch.Tensor,
    experts_TK: torch.Tensor,
    gate_up_NGD: torch.Tensor,
    down_NDF: torch.Tensor,
) -> torch.Tensor:
    """See `kernels.expert_mixture.expert_mixture`."""
    tokens, topk = experts_TK.shape
    if torch.is_grad_enabled() or tokens > FEW_TOKENS or x_TD.dtype != weights_TK.dtype:
        return reference.expert_mixture(x_TD, weights_TK, experts_TK, gate_up_NGD, down_NDF)
    experts, lengths, slots = _rows(experts_TK, down_NDF.shape[0])
    if not experts:
        return torch.zeros_like(x_TD)
    slot_R = torch.tensor(slots)
    token_R = slot_R // topk
    rows_RD = x_TD.expand(len(slots), -1) if tokens == 1 else x_TD.index_select(0, token_R)
    gate_RF, up_RF = _each(gate_up_NGD, experts, rows_RD.split(lengths)).chunk(2, dim=1)
    out_RD = _each(down_NDF, experts, F.silu(gate_RF).mul_(up_RF).split(lengths))
    # The weighted sums by token are one small product.
    weights_R = weights_TK.flatten().index_select(0, slot_R)
    spread_TR = weights_R.new_zeros(tokens, len(slots)).scatter_(0, token_R.unsqueeze(0), weights_R.unsqueeze(0))
    return torch.mm(spread_TR, out_RD)


def _each(weights_NOI: torch.Tensor, experts: list[int], rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The rows of every expert times its matrix, one below the other."""
    return torch.cat([few_rows(own, weights_NOI[expert]) for expert, own in zip(experts, rows, strict=True)])


def _rows(experts_TK: torch.Tensor, num_experts: int) -> tuple[list[int], list[int], list[int]]:
    """The selected experts with a network, how many slots `t * K + k` each has, and these slots, expert by expert."""
    pairs = sorted((expert, slot) for slot, expert in enumerate(experts_TK.flatten().tolist()) if expert < num_experts)
    lengths: dict[int, int] = {}
    for expert, _ in pairs:
        lengths[expert] = lengths.get(expert, 0) + 1
    return list(lengths), list(lengths.values()), [slot for _, slot in pairs]
