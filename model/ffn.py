"""The dense feed-forward network, `down(silu(gate x) * up x)` (Shazeer 2020, SwiGLU)."""

import torch
from torch import nn

from longcat.kernels.feed_forward import feed_forward
from longcat.model.linear import Linear


class FeedForward(nn.Module):
    """SwiGLU of inner width `inner`."""

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, inner)
        self.up_proj = Linear(hidden_size, inner)
        self.down_proj = Linear(inner, hidden_size)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        return feed_forward(x_BTD, self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)
