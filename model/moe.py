"""The mixture of feed-forward and zero-computation experts (LongCat-Flash report, section 2.1, eq. 1 and 8).

    y = sum over selected i of  w_i * FFN_i(x)  for i < N,   w_i * x  for N <= i < N + Z

Zero-computation experts cost one multiplication: their slots are dropped before any row is moved. The configuration can
give them another meaning (`model.zero_experts`, `model.null_experts`) and the router another input
(`model.gating_residual`).

Names: B batch, T tokens, D hidden, K slots a token, R rows, N experts with a network, E experts of both kinds,
F expert width, G = 2F.
"""

import torch
from torch import nn

from kernels.expert_mixture import expert_mixture
from kernels.router import Routing
from model.config import ModelConfig
from model.gating_residual import GatingResidualNullRouter, GatingResidualRouter
from model.linear import unset_parameter
from model.null_experts import NullExpertRouter
from model.router import Router
from model.zero_experts import build_zero_experts

# By whether the experts without a network are null experts, and whether the router has gating residuals.
ROUTERS = {
    (False, False): Router,
    (True, False): NullExpertRouter,
    (False, True): GatingResidualRouter,
    (True, True): GatingResidualNullRouter,
}


class Experts(nn.Module):
    """The stacked weights of all experts with a network: `gate_up_proj` [N, 2F, D], `down_proj` [N, D, F]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, inner = config.n_routed_experts, config.hidden_size, config.expert_ffn_hidden_size
        self.gate_up_proj = unset_parameter(experts, 2 * inner, width)
        self.down_proj = unset_parameter(experts, width, inner)

    def forward(self, x_TD: torch.Tensor, routing: Routing) -> torch.Tensor:
        return expert_mixture(x_TD, routing.weights_TK, routing.experts_TK, self.gate_up_proj, self.down_proj)

    def extra_repr(self) -> str:
        experts, width, inner = self.down_proj.shape
        return f"{experts} x ({width} -> {inner} -> {width})"


class MixtureOfExperts(nn.Module):
    """Router and experts of one layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.router = ROUTERS[config.zero_expert_type == "null", config.gating_residual](config)
        self.experts = Experts(config)
        self.zero_experts = build_zero_experts(config)

    def forward(
        self, x_BTD: torch.Tensor, previous_TE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns (y_BTD, counts_E, logits_TE), the logits being the router's, which the next layer's may read.

        The counts are a result and not a state, so a recomputed layer counts once.
        """
        x_TD = x_BTD.flatten(0, 1)
        routing, logits_TE = self.router(x_TD, previous_TE)
        y_TD = self.experts(x_TD, routing)
        for zero_experts in self.zero_experts.values():
            y_TD = y_TD + zero_experts(x_TD, routing)
        return y_TD.view_as(x_BTD), routing.counts_E, logits_TE
