"""Half-precision training: float32 master weights, and a copy of the model for matrix products."""

from __future__ import annotations

import torch
from torch import nn

from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.build import Distributed


class ComputeModel:
    """The model used in forward passes: the master itself in float32, else a copy in the compute dtype.

    Gradients of the copy are summed over micro batches in float32, in the gradients of the master, which are used by
    the optimizer, checkpoints and the bias controller. Sharded parameters have no copy: they are cast when gathered
    (`stages.train.parallel.fsdp`).
    """

    def __init__(self, held: Distributed) -> None:
        self.models, self.layers = held.models, held.layer_modules()
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        if held.dtype == torch.float32 or held.parallel.is_distributed:
            return
        copy = LongcatFlash(held.config).to(device=held.parallel.device, dtype=held.dtype)
        for router in copy.routers():
            router.float()
        self._pairs = list(zip(held.model.parameters(), copy.parameters(), strict=True))
        self._buffers = list(zip(held.model.buffers(), copy.buffers(), strict=True))
        self.models, self.layers = (copy,), dict(enumerate(copy.model.layers))
        self.refresh()

    @property
    def model(self) -> LongcatFlash:
        """The model of a process without a pipeline."""
        (model,) = self.models
        return model

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add the copy's gradients to the master's and clear them; call after every backward pass."""
        for master, copy in self._pairs:
            if copy.grad is None:
                continue
            wide = copy.grad.float()
            master.grad = wide if master.grad is None else master.grad.add_(wide)
            copy.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master's values to the copy; call after every optimizer step."""
        for master, copy in [*self._pairs, *self._buffers]:
            copy.copy_(master)
