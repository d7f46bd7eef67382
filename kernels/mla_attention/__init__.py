"""Causal attention with queries and keys wider than values, as in expanded multi-head latent attention.

Names: B batch, T queries, S keys, H heads, Q query and key width, V value width.
"""

from collections.abc import Sequence

import torch

from longcat.kernels.mla_attention import cpu, reference
from longcat.kernels.mla_attention.documents import DocumentBounds, document_bounds, document_lengths
from longcat.kernels.mla_attention.window import Window
from longcat.kernels.opaque import opaque
from longcat.kernels.select import KernelError, deferred, select

__all__ = ["DocumentBounds", "Window", "document_bounds", "document_lengths", "mla_attention"]

VERSIONS = {
    "reference": reference.mla_attention,
    "cpu": cpu.mla_attention,
    "triton": deferred("longcat.kernels.mla_attention.triton", "mla_attention"),
    "torch": deferred("longcat.kernels.mla_attention.sdpa", "mla_attention"),
}


def mla_attention(
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    cu_seqlens: torch.Tensor | DocumentBounds | None = None,
    window: Window | Sequence[int] | None = None,
) -> torch.Tensor:
    """`softmax(scale * q k^T) v` over the keys visible to each query. Returns o_BTHV.

    The T queries are the last of the S positions: query t attends to keys up to S - T + t. With `cu_seqlens`
    (cumulative lengths over the B * T flattened tokens, from 0 to B * T, or the result of `document_bounds`, computed
    once for all layers) a query sees only the keys of its own document, and S == T is required; rows of the batch are
    always independent, whether or not `cu_seqlens` includes their bounds. With a `window` a query sees only some of
    these keys (`window`), and the work is proportional to them.

    Raises:
        KernelError: more queries than keys, `cu_seqlens` that does not partition the tokens, or a window that is not of
            whole blocks.
    """
    tokens, keys = q_BTHQ.shape[1], k_BSHQ.shape[1]
    if tokens > keys:
        raise KernelError(f"mla_attention: {tokens} queries cannot be the last of {keys} keys")
    if cu_seqlens is not None and tokens != keys:
        raise KernelError(f"mla_attention: documents need as many queries as keys, got {tokens} and {keys}")
    if window is not None:
        window = Window(*window)
        window.check()
    if torch.compiler.is_compiling():
        bounds = cu_seqlens.cu_seqlens if isinstance(cu_seqlens, DocumentBounds) else cu_seqlens
        return _NODE(q_BTHQ, k_BSHQ, v_BSHV, scale, bounds, None if window is None else list(window))
    version = select("mla_attention", VERSIONS, q_BTHQ.device)
    return version(q_BTHQ, k_BSHQ, v_BSHV, scale, _documents(cu_seqlens, q_BTHQ), window)


def _documents(cu_seqlens: torch.Tensor | DocumentBounds | None, q_BTHQ: torch.Tensor) -> DocumentBounds | None:
    batch, tokens = q_BTHQ.shape[:2]
    if isinstance(cu_seqlens, torch.Tensor):
        return document_bounds(cu_seqlens, batch, tokens, q_BTHQ.device)
    if cu_seqlens is None:
        return None
    made_for = (cu_seqlens.batch, cu_seqlens.tokens, cu_seqlens.device.type)
    if made_for != (batch, tokens, q_BTHQ.device.type):
        raise KernelError(
            "mla_attention: document bounds for {} rows of {} tokens on {} do not fit ".format(*made_for)
            + f"{batch} rows of {tokens} queries on {q_BTHQ.device.type}"
        )
    return cu_seqlens


_NODE = opaque(
    "mla_attention",
    "(Tensor q, Tensor k, Tensor v, float scale, Tensor? cu_seqlens, int[]? window) -> Tensor",
    mla_attention,
    lambda q, k, v, scale, cu_seqlens, window: q.new_empty(*q.shape[:-1], v.shape[-1]),
    differentiable=(0, 1, 2),
)
