"""What the experts with a network contribute to every token: rows out, networks, weighted sum (LongCat-Flash, eq. 1).

Names: T tokens, D model width, K slots a token, N experts with a network, F expert width, G = 2F.
"""

import torch

from longcat.kernels.expert_mixture import cpu, reference
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

    The networks are those of `kernels.grouped_mlp`. Slots of index N and above, the zero-computation experts, cost
    nothing here. Returns y_TD in the dtype of `x_TD`.
    """
    version = select("expert_mixture", VERSIONS, x_TD.device)
    return version(x_TD, weights_TK, experts_TK, gate_up_NGD, down_NDF)
