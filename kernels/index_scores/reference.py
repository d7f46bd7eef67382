"""Scores of all heads at once, the reference implementation."""

import torch

from longcat.kernels.precision import accumulation_dtype


def index_scores(q_TJI: torch.Tensor, k_SI: torch.Tensor, w_TJ: torch.Tensor) -> torch.Tensor:
    """See `kernels.index_scores.index_scores`; differentiable."""
    dtype = accumulation_dtype(q_TJI.dtype)
    products_TJS = torch.einsum("tji,si->tjs", q_TJI.to(dtype), k_SI.to(dtype))
    return torch.einsum("tj,tjs->ts", w_TJ.to(dtype), products_TJS.relu())
