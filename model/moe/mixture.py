"""Mixture of feed-forward and zero-computation experts (LongCat-Flash report, section 2.1, eq. 1 and 8).

    y = sum over selected i of  w_i * FFN_i(x)  for i < N,   w_i * x  for N <= i < N + Z

Zero-computation experts cost one multiplication: their slots are dropped before rows are moved. The configuration can
change their output (`model.moe.zero_experts`, `model.moe.null_experts`) and the router's input
(`model.moe.gating_residual`).

Names: B batch, T tokens, D hidden, K slots per token, R rows, N experts with a network, E experts of both kinds,
F expert width, G = 2F.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from longcat.kernels.expert_mixture import expert_mixture
from longcat.kernels.router import Routing
from longcat.model.config import ModelConfig
from longcat.model.moe.gating_residual import GatingResidualNullRouter, GatingResidualRouter
from longcat.model.moe.null_experts import NullExpertRouter
from longcat.model.moe.router import Router
from longcat.model.moe.zero_experts import build_zero_experts
from longcat.model.parameters import unset_parameter

# Router class by (null experts, gating residuals).
ROUTERS = {
    (False, False): Router,
    (True, False): NullExpertRouter,
    (False, True): GatingResidualRouter,
    (True, True): GatingResidualNullRouter,
}


class LayerRouting(NamedTuple):
    """Routing of one layer: `kernels.router.Routing`, and the router's logits, float32 [T, E].

    A result, not a state, so that a recomputed layer counts once.
    """

    weights_TK: torch.Tensor
    experts_TK: torch.Tensor
    counts_E: torch.Tensor
    logits_TE: torch.Tensor


class Mixture(NamedTuple):
    """Intermediate state of a mixture: input [B, T, D], routing, and the experts' state."""

    x_BTD: torch.Tensor
    routing: LayerRouting
    experts: Any


class Experts(nn.Module):
    """Stacked weights of all FFN experts: `gate_up_proj` [N, 2F, D], `down_proj` [N, D, F].

    Computed in three phases, so that communication with experts on other devices can overlap with other computation.
    Here all experts are local, and the second phase does everything.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, width, inner = config.n_routed_experts, config.hidden_size, config.expert_ffn_hidden_size
        self.gate_up_proj = unset_parameter(experts, 2 * inner, width)
        self.down_proj = unset_parameter(experts, width, inner)

    def dispatch(self, x_TD: torch.Tensor, routing: Routing) -> Any:
        """Dispatch the rows to their experts; the result is passed to `compute`."""
        return x_TD, routing

    def compute(self, sent: Any) -> Any:
        """Run the expert networks; the result is passed to `combine`."""
        x_TD, routing = sent
        return expert_mixture(x_TD, routing.weights_TK, routing.experts_TK, self.gate_up_proj, self.down_proj)

    def combine(self, computed: Any) -> torch.Tensor:
        """Weighted sum of the results per token [T, D]."""
        y_TD: torch.Tensor = computed
        return y_TD

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
    ) -> tuple[torch.Tensor, LayerRouting]:
        """Returns (y_BTD, routing); `previous_TE` are the router logits of the layer before."""
        mixture = self.compute(self.dispatch(x_BTD, previous_TE))
        return self.combine(mixture), mixture.routing

    def dispatch(self, x_BTD: torch.Tensor, previous_TE: torch.Tensor | None = None) -> Mixture:
        """First phase: select the experts of every token and dispatch the tokens."""
        x_TD = x_BTD.flatten(0, 1)
        routing, logits_TE = self.router(x_TD, previous_TE)
        chosen = LayerRouting(routing.weights_TK, routing.experts_TK, routing.counts_E, logits_TE)
        return Mixture(x_BTD, chosen, self.experts.dispatch(x_TD, routing))

    def compute(self, mixture: Mixture) -> Mixture:
        """Second phase: the expert networks."""
        return mixture._replace(experts=self.experts.compute(mixture.experts))

    def combine(self, mixture: Mixture) -> torch.Tensor:
        """Third phase: sums per token, including zero-computation experts [B, T, D]."""
        y_TD, x_TD = self.experts.combine(mixture.experts), mixture.x_BTD.flatten(0, 1)
        for zero_experts in self.zero_experts.values():
            y_TD = y_TD + zero_experts(x_TD, mixture.routing)
        return y_TD.view_as(mixture.x_BTD)
