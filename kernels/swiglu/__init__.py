"""The gated activation of feed-forward networks, `silu(gate) * up` (Shazeer 2020, SwiGLU).

Names: N rows (any leading shape), F inner width.
"""

import torch

from longcat.kernels.select import select
from longcat.kernels.swiglu import cpu, reference

VERSIONS = {"reference": reference.swiglu, "cpu": cpu.swiglu}


def swiglu(gate_NF: torch.Tensor, up_NF: torch.Tensor) -> torch.Tensor:
    """`gate * sigmoid(gate) * up`, elementwise. Returns the shape and dtype of `gate_NF`."""
    return select("swiglu", VERSIONS, gate_NF.device)(gate_NF, up_NF)
