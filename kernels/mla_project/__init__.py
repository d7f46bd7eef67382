"""Projections of multi-head latent attention: queries, latents and rotary keys (LongCat-Flash report, eq. 6 and 7).

Names: B batch, T tokens, D hidden, L query latent, C latent width, R rotary width, N width without position, H heads,
X = H (N + R), Y = C + R, P = R / 2.
"""

from typing import NamedTuple

import torch

from longcat.kernels.mla_project import cpu, reference
from longcat.kernels.mla_project.reference import Projections
from longcat.kernels.select import select

__all__ = ["Projections", "mla_project"]

VERSIONS = {"reference": reference.mla_project, "cpu": cpu.mla_project}


class Projected(NamedTuple):
    """q_nope_BTHN, q_rope_BTHR: queries, rotated. latent_BTC: normalised and scaled. k_rope_BTR: rotated."""

    q_nope_BTHN: torch.Tensor
    q_rope_BTHR: torch.Tensor
    latent_BTC: torch.Tensor
    k_rope_BTR: torch.Tensor


def mla_project(x_BTD: torch.Tensor, angles_TP: torch.Tensor, weights: Projections) -> Projected:
    """`q = W_b (alpha_q norm(W_a x))`, with heads `[nope | rope]`, and `[latent | k_rope] = W_kv x`.

    Without a query latent `q = W_b x`. The latent becomes `alpha_kv norm(latent)`, and rotary parts are rotated by
    `angles_TP` (see `kernels.rope`).
    """
    return Projected(*select("mla_project", VERSIONS, x_BTD.device)(x_BTD, angles_TP, weights))
