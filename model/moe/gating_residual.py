"""Gating residuals (MoE++, Jin et al. 2024): a router also reads the logits of the previous layer's router.

    G_1(x_1) = W_1 x_1,      G_j(x_j) = W_j x_j + V_j G_{j-1}(x_{j-1})

The first layer has a matrix V too, multiplied by zeros, so that all layers have the same parameters and can be stacked.
V is initialized to zero, which equals the model without residuals.
"""

import torch
import torch.nn.functional as F

from longcat.model.config import ModelConfig
from longcat.model.linear import Linear
from longcat.model.moe.null_experts import NullExpertRouter
from longcat.model.moe.router import Router


class GatingResidualRouter(Router):
    """Router whose logits include those of the previous layer, through `residual` [E, E]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.residual = Linear(config.num_experts, config.num_experts)

    def logits(self, x_TD: torch.Tensor, previous_TE: torch.Tensor | None) -> torch.Tensor:
        logits_TE = super().logits(x_TD, previous_TE)
        if previous_TE is None:
            previous_TE = torch.zeros_like(logits_TE)
        return logits_TE + F.linear(previous_TE, self.residual.weight.to(logits_TE.dtype))


class GatingResidualNullRouter(GatingResidualRouter, NullExpertRouter):
    """Both: logits with residuals, weights normalised over the FFN experts."""
