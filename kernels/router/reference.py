"""The router, the plain meaning."""

from typing import NamedTuple

import torch


class Routing(NamedTuple):
    """Where every token goes: weights and experts by token and slot, and how many slots every expert got."""

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
    """The indices of the `topk` highest values of every row, highest first, equal values in order of their index."""
    return torch.sort(choice_TE, dim=-1, descending=True, stable=True).indices[:, :topk]


def count(experts_TK: torch.Tensor, num_experts: int) -> torch.Tensor:
    """How many slots every expert got, int64 [E]."""
    return torch.bincount(experts_TK.flatten(), minlength=num_experts)
