"""The projections composed of other operations; each operation selects its version by device."""

from typing import NamedTuple

import torch

from longcat.kernels.linear import linear
from longcat.kernels.rms_norm import rms_norm
from longcat.kernels.rope import rope


class Projections(NamedTuple):
    """The matrices and norm weights, the number of query heads, both factors alpha, and the epsilon of the norms.

    Without a query latent `q_a_LD` and `q_norm_L` are None, and `q_b_XL` is the matrix [X, D] of the queries.
    """

    q_a_LD: torch.Tensor | None
    q_norm_L: torch.Tensor | None
    q_b_XL: torch.Tensor
    kv_a_YD: torch.Tensor
    kv_norm_C: torch.Tensor
    heads: int
    query_scale: float
    latent_scale: float
    eps: float


Results = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def mla_project(x_BTD: torch.Tensor, angles_TP: torch.Tensor, weights: Projections) -> Results:
    """See `kernels.mla_project.mla_project`."""
    q_BTHQ = linear(_query_input(x_BTD, weights), weights.q_b_XL).unflatten(-1, (weights.heads, -1))
    joint_BTY = linear(x_BTD, weights.kv_a_YD)
    latent_width = weights.kv_norm_C.shape[0]
    rope_width = joint_BTY.shape[-1] - latent_width
    q_nope_BTHN, q_rope_BTHR = q_BTHQ.split((q_BTHQ.shape[-1] - rope_width, rope_width), dim=-1)
    latent_BTC, k_rope_BTR = joint_BTY.split((latent_width, rope_width), dim=-1)
    latent_BTC = rms_norm(latent_BTC, weights.kv_norm_C, weights.eps) * weights.latent_scale
    k_rope_BTR = rope(k_rope_BTR.unsqueeze(2), angles_TP).squeeze(2)
    return q_nope_BTHN, rope(q_rope_BTHR, angles_TP), latent_BTC, k_rope_BTR


def _query_input(x_BTD: torch.Tensor, weights: Projections) -> torch.Tensor:
    """The scaled query latent [B, T, L]; without one, the hidden state."""
    if weights.q_a_LD is None or weights.q_norm_L is None:
        return x_BTD
    return rms_norm(linear(x_BTD, weights.q_a_LD), weights.q_norm_L, weights.eps) * weights.query_scale
