"""Training in a half precision: float32 weights hold the truth, a copy of the model does the matrix products."""

from __future__ import annotations

import torch
from torch import nn

from model.transformer import LongcatFlash


class ComputeModel:
    """The model that forward passes run through: `master` itself in float32, else a copy in `dtype`.

    Gradients of the copy are summed over micro batches in float32, in the gradients of `master`, which is what the
    optimizer, the checkpoints and the bias controller see.
    """

    def __init__(self, master: LongcatFlash, dtype: torch.dtype) -> None:
        self.model = master
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        if dtype == torch.float32:
            return
        self.model = LongcatFlash(master.config).to(device=next(master.parameters()).device, dtype=dtype)
        for router in self.model.routers():
            router.float()
        self._pairs = list(zip(master.parameters(), self.model.parameters(), strict=True))
        self._buffers = list(zip(master.buffers(), self.model.buffers(), strict=True))
        self.refresh()

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add the copy's gradients to the master's and drop them; after every backward pass."""
        for master, copy in self._pairs:
            if copy.grad is None:
                continue
            wide = copy.grad.float()
            master.grad = wide if master.grad is None else master.grad.add_(wide)
            copy.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the copy the master's values; after every optimizer step."""
        for master, copy in [*self._pairs, *self._buffers]:
            copy.copy_(master)
