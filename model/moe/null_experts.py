"""Null experts (AdaMoE, Zeng et al. 2024): they return zero and their weights are excluded from normalisation.

    w_i = scaling * R_i / sum of R_j over the selected FFN experts j,      0 for a null expert

So a token's weights sum to `scaling` for any number of selected FFN experts, unless it selected none. A zero expert of
`model.moe.zero_experts` also returns zero, but the weights of the others are not renormalised.
"""

import torch

from longcat.kernels.router import Routing
from longcat.model.config import ModelConfig
from longcat.model.moe.router import Router


class NullExpertRouter(Router):
    """Selects like `Router`, then normalises the weights over the FFN experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.first_null = config.n_routed_experts

    def route(self, logits_TE: torch.Tensor) -> Routing:
        routing = super().route(logits_TE)
        true_TK = routing.weights_TK * (routing.experts_TK < self.first_null)
        total_T1 = true_TK.sum(dim=1, keepdim=True)
        share_TK = true_TK / total_T1.where(total_T1 > 0, 1.0)
        return routing._replace(weights_TK=share_TK * self.scaling)
