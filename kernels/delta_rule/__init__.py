"""Gated delta rule: a matrix per head that forgets, erases what a key holds, and writes a value under it.

    S_t = (I - k_t (e_t * k_t)^T) Diag(exp(g_t)) S_{t-1} + k_t (w_t * v_t)^T        o_t = scale S_t^T q_t

GDN (arXiv 2412.06464) and KDA (2510.26692) have e = w = a scalar per head, and GDN a scalar g; GDN-2 (2605.22791) has
vectors e and w; FG2-GDN (2604.19021) has e = w = 1 and scales k and v before.

Names: B batch, T tokens, H heads, K key width, V value width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from longcat.kernels.delta_rule import cpu, reference
from longcat.kernels.mla_attention import DocumentBounds, document_bounds
from longcat.kernels.precision import accumulation_dtype
from longcat.kernels.select import KernelError, select

__all__ = ["DeltaOutput", "delta_rule"]

VERSIONS = {"reference": reference.delta_rule, "cpu": cpu.delta_rule}


class DeltaOutput(NamedTuple):
    """o_BTHV: in the dtype of the values. state_BHKV: S after the last token of every row, float32 or better."""

    o_BTHV: torch.Tensor
    state_BHKV: torch.Tensor


def delta_rule(
    q_BTHK: torch.Tensor,
    k_BTHK: torch.Tensor,
    v_BTHV: torch.Tensor,
    g_BTHK: torch.Tensor,
    erase_BTHK: torch.Tensor | None = None,
    write_BTHV: torch.Tensor | None = None,
    *,
    scale: float = 1.0,
    state_BHKV: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | DocumentBounds | None = None,
) -> DeltaOutput:
    """Outputs and final states of all rows.

    The log decays `g_BTHK` are at most 0. They and both gates may have one column for all; gates are one if not given.
    A row begins with `state_BHKV`, or zeros. With `cu_seqlens` (bounds of documents in the B * T flattened tokens, or
    the result of `document_bounds`) every document begins with zeros, and the final state is that of a row's last
    document. Sums and states are in float32 or better. The versions differ only in rounding.

    Raises:
        KernelError: a state is given together with documents, or shapes do not belong together.
    """
    batch, tokens, heads, width = q_BTHK.shape
    _check_shapes(q_BTHK, k_BTHK, v_BTHV, g_BTHK, state_BHKV)
    if state_BHKV is not None and cu_seqlens is not None:
        raise KernelError("delta_rule: documents begin with an empty state; give a state or cu_seqlens, not both")
    if isinstance(cu_seqlens, torch.Tensor):
        cu_seqlens = document_bounds(cu_seqlens, batch, tokens, q_BTHK.device)
    starts_BT = None if cu_seqlens is None else _starts(cu_seqlens)
    if state_BHKV is None:
        state_BHKV = v_BTHV.new_zeros(batch, heads, width, v_BTHV.shape[-1])
    wide_BHKV = state_BHKV.to(accumulation_dtype(v_BTHV.dtype))
    inputs = (
        q_BTHK * scale,
        k_BTHK,
        k_BTHK if erase_BTHK is None else erase_BTHK * k_BTHK,
        v_BTHV if write_BTHV is None else write_BTHV * v_BTHV,
        g_BTHK.expand(-1, -1, -1, width),
    )
    return DeltaOutput(*select("delta_rule", VERSIONS, q_BTHK.device)(*inputs, wide_BHKV, starts_BT))


def _starts(documents: DocumentBounds) -> torch.Tensor:
    """Whether a token is the first of its document in its row, bool [B, T]."""
    first_BT = documents.spans_2BT[0]
    starts_BT: torch.Tensor = first_BT == torch.arange(documents.tokens, device=first_BT.device)
    return starts_BT


def _check_shapes(
    q_BTHK: torch.Tensor,
    k_BTHK: torch.Tensor,
    v_BTHV: torch.Tensor,
    g_BTHK: torch.Tensor,
    state_BHKV: torch.Tensor | None,
) -> None:
    batch, _, heads, width = q_BTHK.shape
    if k_BTHK.shape != q_BTHK.shape or v_BTHV.shape[:3] != q_BTHK.shape[:3] or g_BTHK.shape[:3] != q_BTHK.shape[:3]:
        raise KernelError(
            f"delta_rule: queries {tuple(q_BTHK.shape)}, keys {tuple(k_BTHK.shape)}, values {tuple(v_BTHV.shape)} and "
            f"log decays {tuple(g_BTHK.shape)} differ in their tokens, heads or widths"
        )
    state_shape = (batch, heads, width, v_BTHV.shape[-1])
    if state_BHKV is not None and state_BHKV.shape != state_shape:
        raise KernelError(
            f"delta_rule: the state has the shape {tuple(state_BHKV.shape)}, these rows need {state_shape}"
        )
