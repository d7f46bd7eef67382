"""Linear layer without bias.

Names: N rows (any leading shape), I inputs, O outputs.
"""

import torch

from longcat.kernels.linear import cpu, reference
from longcat.kernels.select import select

VERSIONS = {"reference": reference.linear, "cpu": cpu.linear}


def linear(x_NI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """`y_NO = x_NI weight_OI^T` for any leading shape of `x_NI`, in the dtype of both."""
    return select("linear", VERSIONS, x_NI.device)(x_NI, weight_OI)
