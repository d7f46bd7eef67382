"""Routing of inference: the router of the model without gradient and selection of versions.

Names: T tokens, D hidden, E experts of both kinds, K slots per token.
"""

import torch
from torch import nn

from longcat.kernels.packed_linear import missing, pack
from longcat.kernels.router import Routing
from longcat.kernels.router.cpu import top_experts
from longcat.model.moe.router import Router


class InferenceRouter(nn.Module):
    """`model.moe.router.Router`, exactly this class, in float32: the same scores and the same order of experts."""

    e_score_correction_bias: torch.Tensor

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.topk, self.scaling = router.topk, router.scaling
        self.classifier = pack(router.classifier.weight, "plain" if missing("both") else "both")
        self.register_buffer("e_score_correction_bias", router.e_score_correction_bias.float())
        self._zero_E = torch.zeros(router.classifier.weight.shape[0], dtype=torch.int64)
        self._one_1 = torch.ones(1, dtype=torch.int64)

    def forward(self, x_TD: torch.Tensor, previous_TE: torch.Tensor | None = None) -> tuple[Routing, torch.Tensor]:
        logits_TE = self.classifier(x_TD)
        scores_TE = logits_TE.softmax(dim=-1)
        experts_TK = top_experts(scores_TE + self.e_score_correction_bias, self.topk)
        flat_S = experts_TK.flatten()
        # A scatter of ones: `bincount` first searches for the extremes.
        counts_E = self._zero_E.scatter_add(0, flat_S, self._one_1.expand(flat_S.shape[0]))
        return Routing(scores_TE.gather(1, experts_TK).mul_(self.scaling), experts_TK, counts_E), logits_TE
