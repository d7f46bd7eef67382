"""FFN experts for few tokens without gradient, computed one selected expert at a time; half precision: see `half`.

Generation has so few rows that reading weights dominates: grouped products would start one product per expert, selected
or not. So every selected expert takes two products that stream its weights, and all other steps are done once for the
rows of all experts.

Additional names: R rows, the slots with a network, ordered by expert.
"""

from collections import Counter

import torch
import torch.nn.functional as F

from longcat.kernels.expert_mixture import half, reference
from longcat.kernels.linear.cpu import few_rows
from longcat.kernels.precision import HALF_DTYPES

FEW_TOKENS = 16


def expert_mixture(
    x_TD: torch.Tensor,
    weights_TK: torch.Tensor,
    experts_TK: torch.Tensor,
    gate_up_NGD: torch.Tensor,
    down_NDF: torch.Tensor,
) -> torch.Tensor:
    """See `kernels.expert_mixture.expert_mixture`."""
    tokens = x_TD.shape[0]
    if x_TD.dtype in HALF_DTYPES and x_TD.dtype == gate_up_NGD.dtype == down_NDF.dtype:
        return half.expert_mixture(x_TD, weights_TK, experts_TK, gate_up_NGD, down_NDF)
    if torch.is_grad_enabled() or tokens > FEW_TOKENS or x_TD.dtype != weights_TK.dtype:
        return reference.expert_mixture(x_TD, weights_TK, experts_TK, gate_up_NGD, down_NDF)
    experts, lengths, token_R, weights_R = _rows(weights_TK, experts_TK, down_NDF.shape[0])
    if not experts:
        return torch.zeros_like(x_TD)
    rows_RD = x_TD.expand(len(token_R), -1) if tokens == 1 else x_TD.index_select(0, torch.tensor(token_R))
    gate_RF, up_RF = _each(gate_up_NGD, experts, rows_RD.split(lengths)).chunk(2, dim=1)
    out_RD = _each(down_NDF, experts, F.silu(gate_RF).mul_(up_RF).split(lengths))
    # The weighted sums per token are one small product.
    spread_TR = [
        [weight if token == own else 0.0 for own, weight in zip(token_R, weights_R, strict=True)]
        for token in range(tokens)
    ]
    return torch.mm(torch.tensor(spread_TR, dtype=x_TD.dtype), out_RD)


def _each(weights_NOI: torch.Tensor, experts: list[int], rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Rows of every expert times its matrix, concatenated."""
    return torch.cat([few_rows(own, weights_NOI[expert]) for expert, own in zip(experts, rows, strict=True)])


def _rows(
    weights_TK: torch.Tensor, experts_TK: torch.Tensor, num_experts: int
) -> tuple[list[int], list[int], list[int], list[float]]:
    """Selected FFN experts, rows of each, and token and weight of every row."""
    slots = zip(experts_TK.tolist(), weights_TK.tolist(), strict=True)
    rows = sorted(
        (expert, token, weight)
        for token, (experts_K, weights_K) in enumerate(slots)
        for expert, weight in zip(experts_K, weights_K, strict=True)
        if expert < num_experts
    )
    lengths = Counter(expert for expert, _, _ in rows)
    return list(lengths), list(lengths.values()), [token for _, token, _ in rows], [weight for _, _, weight in rows]
