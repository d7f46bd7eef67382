"""Contribution of FFN experts to every token: dispatch, networks, weighted sum (LongCat-Flash, eq. 1).

Names: T tokens, D model width, K slots per token, N FFN experts, F expert width, G = 2F.
"""

import torch

from longcat.kernels.expert_mixture import cpu, reference
from longcat.kernels.opaque import opaque
from longcat.kernels.select import select

VERSIONS = {"reference": reference.expert_mixture, "cpu": cpu.expert_mixture}


def expert_mixture(
    x_TD: torch.Tensor,
    weights_TK: torch.Tensor,
    experts_TK: torch.Tensor,
    gate_up_NGD: torch.Tensor,
    down_NDF: torch.Tensor,
) -> torch.Tensor:
    """`y[t] = sum over slots k with experts[t, k] < N: weights[t, k] * FFN_experts[t, k](x[t])`.

    The networks are those of `kernels.grouped_mlp`. Slots of index N and above, the zero-computation experts, are
    skipped. Returns y_TD in the dtype of `x_TD`.
    """
    if torch.compiler.is_compiling():
        return _NODE(x_TD, weights_TK, experts_TK, gate_up_NGD, down_NDF)
    version = select("expert_mixture", VERSIONS, x_TD.device)
    return version(x_TD, weights_TK, experts_TK, gate_up_NGD, down_NDF)


_NODE = opaque(
    "expert_mixture",
    "(Tensor x, Tensor weights, Tensor experts, Tensor gate_up, Tensor down) -> Tensor",
    expert_mixture,
    lambda x, weights, experts, gate_up, down: x.new_empty(x.shape),
    differentiable=(0, 1, 3, 4),
)
