"""The dense feed-forward network, `down(silu(gate x) * up x)` (Shazeer 2020, SwiGLU).

Names: N rows (any leading shape), D model width, F inner width.
"""

import torch

from longcat.kernels.feed_forward import cpu, reference
from longcat.kernels.select import deferred, select

VERSIONS = {
    "reference": reference.feed_forward,
    "cpu": cpu.feed_forward,
    "triton": deferred("longcat.kernels.feed_forward.triton", "feed_forward"),
}


def feed_forward(x_ND: torch.Tensor, gate_FD: torch.Tensor, up_FD: torch.Tensor, down_DF: torch.Tensor) -> torch.Tensor:
    """`y = (silu(x gate^T) * (x up^T)) down^T` for any leading shape of `x_ND`. Returns its shape and dtype."""
    return select("feed_forward", VERSIONS, x_ND.device)(x_ND, gate_FD, up_FD, down_DF)
