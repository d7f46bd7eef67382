"""Parameters that are loud until somebody gives them values."""

import torch
from torch import nn


def unset_parameter(*shape: int) -> nn.Parameter:
    """Parameter set to NaN, so that a missing initialization by `model.init` or `model.checkpoint` is noticed."""
    return nn.Parameter(torch.full(shape, float("nan")))
