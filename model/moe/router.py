"""Router: selects the experts of a token and their weights (LongCat-Flash report, eq. 1).

Names: T tokens, D hidden, E experts of both kinds.
"""

import torch
from torch import nn

from longcat.kernels.linear import linear
from longcat.kernels.precision import accumulation_dtype
from longcat.kernels.router import Routing, route
from longcat.model.config import ModelConfig
from longcat.model.linear import Linear


class Router(nn.Module):
    """Softmax router over all experts. Its matrix and selection bias stay float32 in a half-precision model.

    `e_score_correction_bias` is a buffer: it has no gradient and is updated by the load-balance controller.
    """

    e_score_correction_bias: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.topk, self.scaling = config.moe_topk, config.routed_scaling_factor
        self.classifier = Linear(config.hidden_size, config.num_experts)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts))

    def forward(self, x_TD: torch.Tensor, previous_TE: torch.Tensor | None = None) -> tuple[Routing, torch.Tensor]:
        """Returns (routing, logits_TE); `previous_TE` are the logits of the previous layer, for gating residuals."""
        logits_TE = self.logits(x_TD, previous_TE)
        return self.route(logits_TE), logits_TE

    def logits(self, x_TD: torch.Tensor, previous_TE: torch.Tensor | None) -> torch.Tensor:
        wide = accumulation_dtype(x_TD.dtype)
        return linear(x_TD.to(wide), self.classifier.weight.to(wide))

    def route(self, logits_TE: torch.Tensor) -> Routing:
        bias_E = self.e_score_correction_bias.to(logits_TE.dtype)
        return route(logits_TE, bias_E, self.topk, self.scaling)
