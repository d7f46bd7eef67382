"""The dense feed-forward network composed of operations for many rows; each selects its version by device."""

import torch

from longcat.kernels.linear import linear
from longcat.kernels.swiglu import swiglu


def feed_forward(x_ND: torch.Tensor, gate_FD: torch.Tensor, up_FD: torch.Tensor, down_DF: torch.Tensor) -> torch.Tensor:
    """See `kernels.feed_forward.feed_forward`."""
    return linear(swiglu(linear(x_ND, gate_FD), linear(x_ND, up_FD)), down_DF)
