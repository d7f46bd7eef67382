"""Causal attention whose queries and keys are wider than its values, as multi-head latent attention expands them.

Names: B batch, T queries, S keys, H heads, Q query and key width, V value width.
"""

import itertools

import torch

from longcat.kernels.mla_attention import cpu, reference
from longcat.kernels.select import KernelError, deferred, select

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
    cu_seqlens: torch.Tensor | None = None,
) -> torch.Tensor:
    """`softmax(scale * q k^T) v` over the keys that a query may see. Returns o_BTHV.

    The T queries are the last of the S positions: query t sees the keys up to S - T + t. With `cu_seqlens` (cumulative
    lengths over the B * T flattened tokens, from 0 to B * T) it sees the keys of its own document only, and needs
    S == T; rows of the batch are always apart, whether `cu_seqlens` names their edges or not.

    Raises:
        KernelError: more queries than keys, or `cu_seqlens` that does not partition the tokens.
    """
    batch, tokens = q_BTHQ.shape[:2]
    keys = k_BSHQ.shape[1]
    if tokens > keys:
        raise KernelError(f"mla_attention: {tokens} queries cannot be the last of {keys} keys")
    if cu_seqlens is not None and tokens != keys:
        raise KernelError(f"mla_attention: documents need as many queries as keys, got {tokens} and {keys}")
    lengths = None if cu_seqlens is None else document_lengths(cu_seqlens, batch, tokens)
    return select("mla_attention", VERSIONS, q_BTHQ.device)(q_BTHQ, k_BSHQ, v_BSHV, scale, lengths)


def document_lengths(cu_seqlens: torch.Tensor, batch: int, tokens: int) -> list[int]:
    """The lengths of the documents in `batch` rows of `tokens` tokens, split at the edges of the rows as well.

    Raises:
        KernelError: `cu_seqlens` does not rise from 0 to batch * tokens.
    """
    bounds = cu_seqlens.tolist()
    rising = all(low <= high for low, high in itertools.pairwise(bounds))
    if not bounds or bounds[0] != 0 or bounds[-1] != batch * tokens or not rising:
        raise KernelError(
            f"mla_attention: cu_seqlens must rise from 0 to {batch * tokens} (batch * tokens), got {bounds}"
        )
    edges = sorted({*bounds, *range(0, batch * tokens + 1, max(tokens, 1))})
    return [high - low for low, high in itertools.pairwise(edges)]
