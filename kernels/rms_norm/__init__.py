"""RMS normalisation, `weight * x / sqrt(mean(x^2) + eps)` (Zhang and Sennrich 2019, eq. 4).

Names: N rows, D normalised width.
"""

import torch

from longcat.kernels.rms_norm import cpu, reference
from longcat.kernels.select import deferred, select

VERSIONS = {
    "reference": reference.rms_norm,
    "cpu": cpu.rms_norm,
    "triton": deferred("longcat.kernels.rms_norm.triton", "rms_norm"),
}


def rms_norm(x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """Normalise the last dimension of `x_ND` (any leading shape) to unit root mean square, then scale by `weight_D`.

    The mean is taken in float32 or better; the normalised values are rounded to the dtype of `x_ND` before the scaling,
    as in the published models. Returns the shape and dtype of `x_ND`.
    """
    return select("rms_norm", VERSIONS, x_ND.device)(x_ND, weight_D, eps)
