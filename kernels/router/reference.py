"""The router, the reference implementation."""

from typing import NamedTuple

import torch


class Routing(NamedTuple):
    """Routing result: weights and experts by token and slot, and slots per expert."""

    weights_TK: torch.Tensor
    experts_TK: torch.Tensor
    counts_E: torch.Tensor


def route(logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float) -> Routing:
    """See `kernels.router.route`."""
    scores_TE = logits_TE.softmax(dim=-1)
    experts_TK = top_experts(scores_TE.detach() + bias_E, topk)
    weights_TK = scores_TE.gather(1, experts_TK) * scaling
    return Routing(weights_TK, experts_TK, count(experts_TK, logits_TE.shape[-1]))


def top_experts(choice_TE: torch.Tensor, topk: int) -> torch.Tensor:
    """The indices of the `topk` highest values of every row, highest first, equal values ordered by index."""
    return torch.sort(choice_TE, dim=-1, descending=True, stable=True).indices[:, :topk]


def count(experts_TK: torch.Tensor, num_experts: int) -> torch.Tensor:
    """Slots per expert, int64 [E]."""
    return torch.bincount(experts_TK.flatten(), minlength=num_experts)
