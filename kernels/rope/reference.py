"""Rotary position embedding, the reference implementation."""

import torch

from longcat.kernels.precision import accumulation_dtype


def rope(x_BTHR: torch.Tensor, angles_TP: torch.Tensor) -> torch.Tensor:
    """See `kernels.rope.rope`."""
    wide = accumulation_dtype(x_BTHR.dtype)
    cos_T1P = angles_TP.cos().to(wide).unsqueeze(1)
    sin_T1P = angles_TP.sin().to(wide).unsqueeze(1)
    even_BTHP, odd_BTHP = x_BTHR.to(wide).unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((even_BTHP * cos_T1P - odd_BTHP * sin_T1P, odd_BTHP * cos_T1P + even_BTHP * sin_T1P), dim=-1)
    return rotated.flatten(-2).to(x_BTHR.dtype)
