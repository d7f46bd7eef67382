"""The dense feed-forward network for few rows without gradient, where selecting versions would dominate the time.

Half precision: see `half`.
"""

import torch
import torch.nn.functional as F

from longcat.kernels.feed_forward import half, reference
from longcat.kernels.linear.cpu import FEW_ROWS, product
from longcat.kernels.precision import HALF_DTYPES


def feed_forward(x_ND: torch.Tensor, gate_FD: torch.Tensor, up_FD: torch.Tensor, down_DF: torch.Tensor) -> torch.Tensor:
    """See `kernels.feed_forward.feed_forward`."""
    if x_ND.dtype in HALF_DTYPES and {gate_FD.dtype, up_FD.dtype, down_DF.dtype} == {x_ND.dtype}:
        return half.feed_forward(x_ND, gate_FD, up_FD, down_DF)
    if torch.is_grad_enabled() or x_ND.numel() > FEW_ROWS * x_ND.shape[-1]:
        return reference.feed_forward(x_ND, gate_FD, up_FD, down_DF)
    rows_RD = x_ND.reshape(-1, x_ND.shape[-1])
    active_RF = F.silu(product(rows_RD, gate_FD)).mul_(product(rows_RD, up_FD))
    return product(active_RF, down_DF).contiguous().view(x_ND.shape)
