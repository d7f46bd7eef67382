"""The mixture of feed-forward and zero-computation experts (LongCat-Flash report, section 2.1, eq. 1 and 8).

    y = sum over selected i of  w_i * FFN_i(x)  for i < N,   w_i * x  for N <= i < N + Z

Zero-computation experts cost one multiplication: their slots are dropped before any row is moved.

Names: B batch, T tokens, D hidden, K slots a token, R rows, N experts with a network, E experts of both kinds,
F expert width, G = 2F.
"""

import torch
from torch import nn

from kernels.expert_mixture import expert_mixture
from kernels.router import Routing
from model.config import ModelConfig
from model.linear import unset_parameter
from model.router import Router


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
        self.first_zero_expert = config.n_routed_experts
        self.router = Router(config)
        self.experts = Experts(config)

    def forward(self, x_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (y_BTD, counts_E): the counts are a result and not a state, so a recomputed layer counts once."""
        x_TD = x_BTD.flatten(0, 1)
        routing = self.router(x_TD)
        idle_TK = routing.experts_TK >= self.first_zero_expert
        zero_weight_T1 = (routing.weights_TK * idle_TK).sum(dim=1, keepdim=True)
        y_TD = self.experts(x_TD, routing) + (x_TD * zero_weight_T1).to(x_TD.dtype)
        return y_TD.view_as(x_BTD), routing.counts_E
