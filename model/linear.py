"""Matrices without a bias."""

import torch
from torch import nn

from longcat.kernels.linear import linear
from longcat.model.parameters import unset_parameter


class Linear(nn.Module):
    """`y = W x` with `W` of shape [outputs, inputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = unset_parameter(outputs, inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}"
