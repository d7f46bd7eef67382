"""The projections of few tokens without gradient, where selecting versions would take as long as the computation."""

import torch

from longcat.kernels.linear.cpu import FEW_ROWS, product
from longcat.kernels.mla_project import reference
from longcat.kernels.mla_project.reference import Projections, Results
from longcat.kernels.rms_norm.cpu import normalize
from longcat.kernels.rope.cpu import rotate, turns


def mla_project(x_BTD: torch.Tensor, angles_TP: torch.Tensor, weights: Projections) -> Results:
    """See `kernels.mla_project.mla_project`."""
    batch, tokens, width = x_BTD.shape
    exact = x_BTD.dtype == weights.q_b_XL.dtype in (torch.float32, torch.float64)
    if torch.is_grad_enabled() or not 0 < batch * tokens <= FEW_ROWS or not exact:
        return reference.mla_project(x_BTD, angles_TP, weights)
    q_a_LD, q_norm_L, q_b_XL, kv_a_YD, kv_norm_C, heads, query_scale, latent_scale, eps = weights
    x_ND = x_BTD.reshape(-1, width)
    q_input_NL = x_ND
    if q_a_LD is not None and q_norm_L is not None:
        q_input_NL = normalize(product(x_ND, q_a_LD).contiguous(), q_norm_L, eps, query_scale)
    q_ND = product(q_input_NL, q_b_XL)
    q_BTHQ = q_ND.contiguous().view(batch, tokens, heads, -1)
    joint_BTY = product(x_ND, kv_a_YD).contiguous().view(batch, tokens, -1)
    latent_width = kv_norm_C.shape[0]
    nope_width = q_BTHQ.shape[-1] - joint_BTY.shape[-1] + latent_width
    turn_T1P = turns(angles_TP, x_BTD.dtype)
    latent_BTC = normalize(joint_BTY[..., :latent_width], kv_norm_C, eps, latent_scale)
    k_rope_BTR = rotate(joint_BTY[..., latent_width:].unsqueeze(2), turn_T1P).squeeze(2)
    return q_BTHQ[..., :nope_width], rotate(q_BTHQ[..., nope_width:], turn_T1P), latent_BTC, k_rope_BTR
