"""Short causal convolution of every channel by itself, and SiLU: y_t = silu(sum_i w_i x_{t - S + 1 + i}).

It precedes queries, keys and values of linear attention (H3, arXiv 2212.14052; Mamba, 2312.00752).

Names: B batch, T tokens, X channels, S taps.
"""

from __future__ import annotations

import torch

from longcat.kernels.mla_attention import DocumentBounds, document_bounds
from longcat.kernels.select import select
from longcat.kernels.short_convolution import cpu, reference

VERSIONS = {"reference": reference.short_convolution, "cpu": cpu.short_convolution}


def short_convolution(
    x_BTX: torch.Tensor, weight_XS: torch.Tensor, cu_seqlens: torch.Tensor | DocumentBounds | None = None
) -> torch.Tensor:
    """Values [B, T, X], in the dtype of `x_BTX`; before the first token of a row or of a document there are zeros.

    The last tap belongs to the token itself. `cu_seqlens` as in `kernels.mla_attention.mla_attention`.
    """
    if isinstance(cu_seqlens, torch.Tensor):
        cu_seqlens = document_bounds(cu_seqlens, x_BTX.shape[0], x_BTX.shape[1], x_BTX.device)
    first_BT = None if cu_seqlens is None else cu_seqlens.spans_2BT[0]
    return select("short_convolution", VERSIONS, x_BTX.device)(x_BTX, weight_XS, first_BT)
