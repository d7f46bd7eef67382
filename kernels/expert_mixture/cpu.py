"""The experts' contribution to few tokens without gradient, one selected expert after another.

Generation has so few rows that reading the weights is all the work: grouped products would start one product for each
expert, selected or not, and sorting rows would cost more than the rows. Tokens are columns here: products from the left
stream the weights at the full rate of memory, and nothing is transposed between the two of an expert.
"""

import torch
import torch.nn.functional as F

from kernels.expert_mixture import reference

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
    y_DT = x_TD.new_zeros(x_TD.shape[1], x_TD.shape[0])
    experts, lengths, slots = _columns(experts_TK, down_NDF.shape[0])
    if not experts:
        return y_DT.t()
    slot_C = torch.tensor(slots)
    token_C = slot_C // experts_TK.shape[1]
    x_CD, weights_C = x_TD[token_C], weights_TK.flatten()[slot_C]
    parts = zip(experts, x_CD.split(lengths), weights_C.split(lengths), token_C.split(lengths), strict=True)
    for expert, own_CD, own_C, tokens_C in parts:
        # A single column goes in twice: the libraries have a slow path of their own for a vector.
        gate_FC, up_FC = torch.mm(gate_up_NGD[expert], _columns_of(own_CD)).chunk(2)
        out_DC = torch.mm(down_NDF[expert], F.silu(gate_FC).mul_(up_FC))[:, : len(own_C)]
        y_DT.index_add_(1, tokens_C, out_DC.mul_(own_C))
    return y_DT.t().contiguous()


def _columns(experts_TK: torch.Tensor, num_experts: int) -> tuple[list[int], list[int], list[int]]:
    """The selected experts with a network, how many slots `t * K + k` each has, and these slots, expert by expert."""
    pairs = sorted((expert, slot) for slot, expert in enumerate(experts_TK.flatten().tolist()) if expert < num_experts)
    lengths: dict[int, int] = {}
    for expert, _ in pairs:
        lengths[expert] = lengths.get(expert, 0) + 1
    return list(lengths), list(lengths.values()), [slot for _, slot in pairs]


def _columns_of(x_CD: torch.Tensor) -> torch.Tensor:
    return (x_CD if x_CD.shape[0] > 1 else torch.cat((x_CD, x_CD))).t()
