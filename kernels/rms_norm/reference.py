"""RMS normalisation, the reference implementation."""

import torch

from longcat.kernels.precision import accumulation_dtype


def rms_norm(x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """See `kernels.rms_norm.rms_norm`."""
    wide_ND = x_ND.to(accumulation_dtype(x_ND.dtype))
    normed_ND = wide_ND * torch.rsqrt(wide_ND.square().mean(-1, keepdim=True) + eps)
    return weight_D * normed_ND.to(x_ND.dtype)
