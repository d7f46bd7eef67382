"""Outputs of zero-computation experts: input, zero, or a learned constant (MoE++, Jin et al. 2024).

    identity   E(x) = x                          the published kind, "copy" in MoE++
    zero       E(x) = 0                          no module: such slots are dropped
    constant   E(x) = a_1 x + a_2 v              (a_1, a_2) = softmax(W_c x), with v [D] and W_c [2, D] learned

Their slots never become rows: an expert's output is added to its tokens with the routing weight. Indices are in the
order zero, constant, identity. Null experts are `model.moe.null_experts`.

Names: T tokens, D hidden, K slots per token, M constant experts, E experts of both kinds.
"""

from collections.abc import Callable

import torch
from torch import nn

from longcat.kernels.precision import accumulation_dtype
from longcat.kernels.router import Routing
from longcat.model.config import ModelConfig
from longcat.model.linear import Linear
from longcat.model.parameters import unset_parameter


class IdentityExperts(nn.Module):
    """All experts from index `first` on return their input, at one multiplication per token."""

    def __init__(self, config: ModelConfig, first: int, count: int) -> None:
        super().__init__()
        self.first = first

    def forward(self, x_TD: torch.Tensor, routing: Routing) -> torch.Tensor:
        idle_TK = routing.experts_TK >= self.first
        weight_T1 = (routing.weights_TK * idle_TK).sum(dim=1, keepdim=True)
        return (x_TD * weight_T1).to(x_TD.dtype)


class ConstantExperts(nn.Module):
    """Expert `first + m` blends its input with `vectors[m]`; rows 2m and 2m + 1 of `mixing` weigh the two."""

    def __init__(self, config: ModelConfig, first: int, count: int) -> None:
        super().__init__()
        self.first, self.last = first, first + count
        self.num_experts = config.num_experts
        self.mixing = Linear(config.hidden_size, 2 * count)
        self.vectors = unset_parameter(count, config.hidden_size)

    def forward(self, x_TD: torch.Tensor, routing: Routing) -> torch.Tensor:
        wide = accumulation_dtype(x_TD.dtype)
        shares_TM2 = self.mixing(x_TD).unflatten(-1, (-1, 2)).to(wide).softmax(dim=-1)
        # A token's experts are distinct, so this scatter writes every place at most once.
        spread_TE = routing.weights_TK.new_zeros(x_TD.shape[0], self.num_experts)
        spread_TE = spread_TE.scatter(1, routing.experts_TK, routing.weights_TK)
        keep_TM, replace_TM = (shares_TM2 * spread_TE[:, self.first : self.last].unsqueeze(-1)).unbind(-1)
        y_TD = x_TD * keep_TM.sum(dim=1, keepdim=True) + replace_TM @ self.vectors.to(wide)
        return y_TD.to(x_TD.dtype)

    def extra_repr(self) -> str:
        return f"experts {self.first} to {self.last - 1}"


KINDS: dict[str, Callable[[ModelConfig, int, int], nn.Module]] = {
    "constant": ConstantExperts,
    "identity": IdentityExperts,
}


def build_zero_experts(config: ModelConfig) -> nn.ModuleDict:
    """Modules by name for every zero-computation kind in `config` with an output; the mixture sums their outputs."""
    modules = {}
    first = config.n_routed_experts
    for kind, count in config.zero_expert_counts.items():
        if kind in KINDS:
            modules[kind] = KINDS[kind](config, first, count)
        first += count
    return nn.ModuleDict(modules)
