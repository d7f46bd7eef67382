"""RMS normalisation as a module."""

import torch
from torch import nn

from longcat.kernels.rms_norm import rms_norm
from longcat.model.parameters import unset_parameter


class RMSNorm(nn.Module):
    """Normalise the last dimension of size `width` and scale it by a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = unset_parameter(width)
        self.eps = eps

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return rms_norm(x_BTD, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, eps={self.eps}"
