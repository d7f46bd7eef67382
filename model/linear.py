"""Matrices without a bias, and parameters that are loud until somebody gives them values."""

import torch
from torch import nn

from longcat.kernels.linear import linear


def unset_parameter(*shape: int) -> nn.Parameter:
    """A parameter of NaN: `model.init` or `model.checkpoint` fill it, and forgetting to do so cannot pass unseen."""
    return nn.Parameter(torch.full(shape, float("nan")))


class Linear(nn.Module):
    """`y = W x` with `W` of shape [outputs, inputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = unset_parameter(outputs, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}"
