"""The gated activation, the reference implementation."""

import torch
import torch.nn.functional as F


def swiglu(gate_NF: torch.Tensor, up_NF: torch.Tensor) -> torch.Tensor:
    """See `kernels.swiglu.swiglu`."""
    return F.silu(gate_NF) * up_NF
