"""Norms, projections and networks on packed matrices, with the interface of the modules that they replace.

Names: B batch, T tokens, N rows (B * T), D hidden, F inner width, G = 2F.
"""

import torch
import torch.nn.functional as F
from torch import nn

from longcat.kernels.packed_linear import PackedMatrix
from longcat.kernels.rms_norm.cpu import normalize


class PackedLinear(nn.Module):
    """`model.linear.Linear`: a matrix of any form."""

    def __init__(self, matrix: PackedMatrix) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.matrix.outputs)

    def extra_repr(self) -> str:
        return f"{self.matrix.inputs} -> {self.matrix.outputs}, {self.matrix.form}"


class PackedFeedForward(nn.Module):
    """`model.ffn.FeedForward`: gate and up are one matrix [G, D], with the gate in its first rows."""

    def __init__(self, gate_up: PackedMatrix, down: PackedMatrix) -> None:
        super().__init__()
        self.gate_up, self.down = gate_up, down

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        gate_NF, up_NF = self.gate_up(x_BTD.reshape(-1, x_BTD.shape[-1])).chunk(2, dim=1)
        return self.down(F.silu(gate_NF).mul_(up_NF)).view(x_BTD.shape)

    def extra_repr(self) -> str:
        return f"{self.gate_up.inputs} -> {self.down.inputs}, {self.gate_up.form} and {self.down.form}"


class InferenceNorm(nn.Module):
    """`model.norm.RMSNorm` of float32 rows, without selection and gradient."""

    def __init__(self, weight_D: torch.Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight_D)
        self.eps = eps

    weight: torch.Tensor

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return normalize(x_BTD, self.weight, self.eps)
