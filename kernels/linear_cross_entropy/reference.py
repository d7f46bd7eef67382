"""Projection, then cross entropy, the reference implementation."""

import torch
import torch.nn.functional as F

from longcat.kernels.cross_entropy.reference import cross_entropy


def linear_cross_entropy(
    hidden_TD: torch.Tensor, weight_VD: torch.Tensor, targets_T: torch.Tensor, z_coefficient: float, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.linear_cross_entropy.linear_cross_entropy`."""
    return cross_entropy(F.linear(hidden_TD, weight_VD), targets_T, ignore_index, z_coefficient)
