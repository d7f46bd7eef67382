"""The router: which experts a token goes to, and with what weight (LongCat-Flash report, eq. 1).

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
    """A softmax router over all experts. Its matrix and its selection bias stay float32 in a half-precision model.

    `e_score_correction_bias` is a buffer: no gradient reaches it, the controller of the expert load moves it.
    """

    e_score_correction_bias: torch.Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.topk, self.scaling = config.moe_topk, config.routed_scaling_factor
        self.classifier = Linear(config.hidden_size, config.num_experts)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts))

    def forward(self, x_TD: torch.Tensor, previous_TE: torch.Tensor | None = None) -> tuple[Routing, torch.Tensor]:
        """Returns (routing, logits_TE); `previous_TE` are the logits of the layer before, for gating residuals."""
        logits_TE = self.logits(x_TD, previous_TE)
        return self.route(logits_TE), logits_TE

    def logits(self, x_TD: torch.Tensor, previous_TE: torch.Tensor | None) -> torch.Tensor:
        wide = accumulation_dtype(x_TD.dtype)
        return linear(x_TD.to(wide), self.classifier.weight.to(wide))

    def route(self, logits_TE: torch.Tensor) -> Routing:
        bias_E = self.e_score_correction_bias.to(logits_TE.dtype)
        return route(logits_TE, bias_E, self.topk, self.scaling)
