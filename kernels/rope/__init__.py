"""Rotary position embedding on interleaved pairs (Su et al. 2021, eq. 34; pairs 2i, 2i+1 as in LongCat-Flash).

Names: B batch, T tokens, H heads, R rotary width, P = R / 2 pairs.
"""

import torch

from longcat.kernels.rope import cpu, reference
from longcat.kernels.select import KernelError, deferred, select

VERSIONS = {
    "reference": reference.rope,
    "cpu": cpu.rope,
    "triton": deferred("longcat.kernels.rope.triton", "rope"),
}


def rope(x_BTHR: torch.Tensor, angles_TP: torch.Tensor) -> torch.Tensor:
    """Rotate pair `(x[2i], x[2i+1])` of the token at index t by `angles_TP[t, i]` radians.

    `angles_TP` is float64; its cosines and sines are rounded once, to the dtype of `x_BTHR` or float32. The order
    of the pairs is unchanged. Returns the shape and dtype of `x_BTHR`; only `x_BTHR` gets a gradient.

    Raises:
        KernelError: the shapes of `x_BTHR` and `angles_TP` do not match.
    """
    _, tokens, _, width = x_BTHR.shape
    if angles_TP.shape != (tokens, width // 2) or width % 2:
        raise KernelError(
            f"rope: x {tuple(x_BTHR.shape)} needs angles {(tokens, width // 2)}, got {tuple(angles_TP.shape)}"
        )
    return select("rope", VERSIONS, x_BTHR.device)(x_BTHR, angles_TP)
