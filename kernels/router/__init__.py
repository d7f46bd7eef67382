"""Softmax router with a selection bias (LongCat-Flash report, eq. 1 and 8).

Names: T tokens, E = N + Z experts (N with a feed-forward network, then Z zero-computation ones), K selected.
"""

import torch

from longcat.kernels.opaque import opaque
from longcat.kernels.router import cpu, reference
from longcat.kernels.router.reference import Routing
from longcat.kernels.select import KernelError, deferred, select

__all__ = ["Routing", "route"]

VERSIONS = {
    "reference": reference.route,
    "cpu": cpu.route,
    "triton": deferred("longcat.kernels.router.triton", "route"),
}


def route(logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float) -> Routing:
    """Select `topk` experts per token.

    The scores are a softmax over all E logits; the K highest of score + bias are selected, highest first, ties going to
    the lowest index; their weights are the scores without the bias times `scaling`, not renormalised.

    `logits_TE` and `bias_E` are float32 (or float64). The selection has no gradient; the weights have one to the
    logits. Returns `Routing(weights_TK, experts_TK int64, counts_E int64)`; the counts sum to T * K.

    Raises:
        KernelError: `topk` exceeds the number of experts.
    """
    if not 0 < topk <= logits_TE.shape[-1]:
        raise KernelError(f"router: topk = {topk} must be between 1 and the {logits_TE.shape[-1]} experts")
    if torch.compiler.is_compiling():
        return Routing(*_NODE(logits_TE, bias_E, topk, scaling))
    return select("router", VERSIONS, logits_TE.device)(logits_TE, bias_E, topk, scaling)


def _results(logits: torch.Tensor, bias: torch.Tensor, topk: int, scaling: float) -> tuple[torch.Tensor, ...]:
    tokens, experts = logits.shape
    shapes = (((tokens, topk), logits.dtype), ((tokens, topk), torch.int64), ((experts,), torch.int64))
    return tuple(logits.new_empty(shape, dtype=dtype) for shape, dtype in shapes)


_NODE = opaque(
    "router",
    "(Tensor logits, Tensor bias, int topk, float scaling) -> (Tensor, Tensor, Tensor)",
    route,
    _results,
    differentiable=(0,),
)
