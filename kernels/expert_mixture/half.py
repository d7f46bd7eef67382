"""FFN experts in bfloat16 or float16 on a CPU, forward and backward as one operation.

oneDNN compiles a kernel for every new shape of a product, which takes longer than the product of one expert. The rows
of every expert are therefore padded to a multiple of 32, so that shapes repeat. Padding has weight zero, so its rows
contribute to no gradient.

Activations are computed in float32 and rounded once (`kernels.swiglu.half`). The weight of a row is multiplied there,
since the second matrix is linear: the sum per token is unweighted, and the gradient of the weight needs only the
activations.

Additional names: P padded rows.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from longcat.kernels.expert_order import expert_order
from longcat.kernels.swiglu.half import activate, differentiate

MULTIPLE = 32


class Layout(NamedTuple):
    """token_P: token of every row, 0 for padding. slot_R, place_R: slot and padded row of every row with an expert.

    place_TK: padded row of every slot, -1 if it has none. bag_R, starts_T1: padded rows by token. spans: expert, first
    and end (exclusive) of its rows.
    """

    token_P: torch.Tensor
    slot_R: torch.Tensor
    place_R: torch.Tensor
    place_TK: torch.Tensor
    bag_R: torch.Tensor
    starts_T1: torch.Tensor
    spans: list[tuple[int, int, int]]


def layout(experts_TK: torch.Tensor, num_experts: int) -> Layout:
    """Padded rows of every expert, in the order of `kernels.expert_order`."""
    order = expert_order(experts_TK, num_experts).exact()
    ends_N = order.ends_N.long()
    counts_N = ends_N.diff(prepend=ends_N.new_zeros(1))
    padded_N = (counts_N + MULTIPLE - 1) // MULTIPLE * MULTIPLE
    shift_N = (padded_N - counts_N).cumsum(0) - (padded_N - counts_N)
    place_R = torch.arange(order.slot_R.shape[0]) + shift_N.repeat_interleave(counts_N)
    ends = padded_N.cumsum(0).tolist()
    token_P = torch.zeros(ends[-1], dtype=torch.int64).index_copy_(0, place_R, order.token_R)
    bag_R, starts_T1 = order.bags()
    place_TK = torch.cat((place_R, place_R.new_tensor([-1])))[order.row_TK]
    spans = [(expert, end - size, end) for expert, (end, size) in enumerate(zip(ends, padded_N.tolist(), strict=True))]
    used = [span for span in spans if span[1] < span[2]]
    return Layout(token_P, order.slot_R, place_R, place_TK, place_R[bag_R], starts_T1, used)


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TD: torch.Tensor, weights_TK: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor,
        rows: Layout,
    ) -> torch.Tensor:  # fmt: skip
        weight_P1 = _by_row(weights_TK, rows)
        rows_PD = x_TD.index_select(0, rows.token_P)
        hidden_PG = x_TD.new_empty(rows_PD.shape[0], gate_up_NGD.shape[1])
        for expert, first, end in rows.spans:
            torch.mm(rows_PD[first:end], gate_up_NGD[expert].t(), out=hidden_PG[first:end])
        gate_PF, up_PF = hidden_PG.chunk(2, dim=1)
        active_PF = activate(gate_PF, up_PF, weight_P1)
        for expert, first, end in rows.spans:
            torch.mm(active_PF[first:end], down_NDF[expert].t(), out=rows_PD[first:end])
        ctx.save_for_backward(x_TD, weights_TK, gate_up_NGD, down_NDF, hidden_PG)
        ctx.rows = rows
        return _sum_by_token(rows_PD, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_TD, weights_TK, gate_up_NGD, down_NDF, hidden_PG = ctx.saved_tensors
        rows: Layout = ctx.rows
        grad_PD = gradients[0].index_select(0, rows.token_P)
        active_PF = hidden_PG.new_empty(hidden_PG.shape[0], down_NDF.shape[2])
        for expert, first, end in rows.spans:
            torch.mm(grad_PD[first:end], down_NDF[expert], out=active_PF[first:end])
        grad_hidden_PG = torch.empty_like(hidden_PG)
        (gate_PF, up_PF), (grad_gate_PF, grad_up_PF) = (x.chunk(2, dim=1) for x in (hidden_PG, grad_hidden_PG))
        weight_P1 = _by_row(weights_TK, rows)
        grad_weight_P = differentiate(gate_PF, up_PF, active_PF, grad_gate_PF, grad_up_PF, weight_P1)
        grad_down_NDF = _of_matrices(down_NDF, grad_PD, active_PF, rows)
        rows_PD = torch.index_select(x_TD, 0, rows.token_P, out=grad_PD)
        grad_gate_up_NGD = _of_matrices(gate_up_NGD, grad_hidden_PG, rows_PD, rows)
        for expert, first, end in rows.spans:
            torch.mm(grad_hidden_PG[first:end], gate_up_NGD[expert], out=rows_PD[first:end])
        grad_weights_TK = torch.cat((grad_weight_P, grad_weight_P.new_zeros(1)))[rows.place_TK]
        return _sum_by_token(rows_PD, rows), grad_weights_TK.to(weights_TK.dtype), grad_gate_up_NGD, grad_down_NDF, None


def expert_mixture(
    x_TD: torch.Tensor,
    weights_TK: torch.Tensor,
    experts_TK: torch.Tensor,
    gate_up_NGD: torch.Tensor,
    down_NDF: torch.Tensor,
) -> torch.Tensor:
    """See `kernels.expert_mixture.expert_mixture`."""
    rows = layout(experts_TK, down_NDF.shape[0])
    y_TD: torch.Tensor = _Mixture.apply(x_TD, weights_TK, gate_up_NGD, down_NDF, rows)
    return y_TD


def _by_row(weights_TK: torch.Tensor, rows: Layout) -> torch.Tensor:
    """Weights of the padded rows, float32 [P, 1]; zero for padding."""
    weight_P = torch.zeros(rows.token_P.shape[0])
    return weight_P.index_copy_(0, rows.place_R, weights_TK.flatten()[rows.slot_R].float()).unsqueeze(1)


def _of_matrices(like_NOI: torch.Tensor, grad_PO: torch.Tensor, x_PI: torch.Tensor, rows: Layout) -> torch.Tensor:
    """Gradients of the matrices of all experts; zero for an expert without rows."""
    grad_NOI = torch.empty_like(like_NOI)
    for expert in {*range(like_NOI.shape[0])} - {expert for expert, _, _ in rows.spans}:
        grad_NOI[expert].zero_()
    for expert, first, end in rows.spans:
        torch.mm(grad_PO[first:end].t(), x_PI[first:end], out=grad_NOI[expert])
    return grad_NOI


def _sum_by_token(rows_PD: torch.Tensor, rows: Layout) -> torch.Tensor:
    return F.embedding_bag(rows.bag_R, rows_PD, rows.starts_T1, mode="sum", include_last_offset=True)
