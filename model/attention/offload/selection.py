"""Which blocks and which positions a query needs: scores of heads made one, and their greatest values.

Names: H heads, E width of a cached position, X candidates.
"""

from __future__ import annotations

from typing import Literal

import torch

Heads = Literal["mass", "sum", "max"]


def scoring_queries(q_HE: torch.Tensor, heads: Heads) -> torch.Tensor:
    """Queries to score candidates with: those of all heads, or their sum [1, E]."""
    return q_HE.sum(dim=0, keepdim=True) if heads == "sum" else q_HE


def merged(scores_HX: torch.Tensor, heads: Heads) -> torch.Tensor:
    """One score for each candidate: `mass` estimates the attention mass of all heads."""
    return scores_HX.softmax(dim=-1).sum(dim=0) if heads == "mass" else scores_HX.amax(dim=0)


def greatest(scores_X: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` greatest scores, in ascending order; of equal ones the first."""
    if count >= scores_X.shape[0]:
        return torch.arange(scores_X.shape[0], device=scores_X.device)
    least = scores_X.topk(count, sorted=False).values.amin()
    above = (scores_X > least).nonzero().squeeze(1)
    equal = (scores_X == least).nonzero().squeeze(1)
    return torch.cat((above, equal[: count - above.shape[0]])).sort().values
