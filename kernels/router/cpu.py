"""The router with a partial selection instead of a full sort, and a backward without scatter-add."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.router import reference
from longcat.kernels.router.reference import Routing

FEW_CHOICES = 1 << 12  # below this, a full sort is faster than computing the keys


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scores_TE, weights_TK, experts_TK = _choose(logits_TE, bias_E, topk, scaling)
        ctx.save_for_backward(scores_TE, experts_TK, weights_TK)
        ctx.mark_non_differentiable(experts_TK)
        return weights_TK, experts_TK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scores_TE, experts_TK, weights_TK = ctx.saved_tensors
        flow_TK = gradients[0] * weights_TK
        # The experts of a token are distinct, so this scatter writes every element at most once.
        selected_TE = torch.zeros_like(scores_TE).scatter_(1, experts_TK, flow_TK)
        return selected_TE.addcmul_(scores_TE, flow_TK.sum(-1, keepdim=True), value=-1), None, None, None


def route(logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float) -> Routing:
    """See `kernels.router.route`."""
    if torch.is_grad_enabled():
        weights_TK, experts_TK = _Route.apply(logits_TE, bias_E, topk, scaling)
    else:
        _, weights_TK, experts_TK = _choose(logits_TE, bias_E, topk, scaling)
    return Routing(weights_TK, experts_TK, reference.count(experts_TK, logits_TE.shape[-1]))


def _choose(
    logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(scores_TE, weights_TK, experts_TK)."""
    scores_TE = logits_TE.softmax(dim=-1)
    experts_TK = top_experts(scores_TE + bias_E, topk)
    return scores_TE, scores_TE.gather(1, experts_TK).mul_(scaling), experts_TK


def top_experts(choice_TE: torch.Tensor, topk: int) -> torch.Tensor:
    """Like `reference.top_experts`; `torch.topk` does not define the order of ties, so value and index form a key."""
    if choice_TE.dtype != torch.float32 or choice_TE.numel() < FEW_CHOICES:
        return reference.top_experts(choice_TE, topk)
    last = choice_TE.shape[-1] - 1
    # Adding zero turns -0.0 into 0.0; flipping the low bits of negative floats makes their bits sort like numbers.
    bits_TE = (choice_TE + 0.0).view(torch.int32)
    ordered_TE = bits_TE ^ ((bits_TE >> 31) & 0x7FFFFFFF)
    reversed_index_E = torch.arange(last, -1, -1, device=choice_TE.device)
    key_TE = (ordered_TE.long() << 32) | reversed_index_E
    return last - (key_TE.topk(topk, dim=-1).values & 0xFFFFFFFF)
