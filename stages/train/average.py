"""An exponential moving average of the weights, kept in float32 beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from longcat.pipeline.errors import IntegrityError
from longcat.stages.train.optimizer import Named
from longcat.stages.train.parallel.state import copy_part, local_part
from longcat.stages.train.plan import Tensors


class WeightAverage:
    """`average = decay * average + (1 - decay) * weights` after every optimizer step.

    The decay rises as (1 + n) / (10 + n) over the first updates n, so that the average forgets the initial values.
    """

    def __init__(self, model: Named, decay: float, start: Tensors) -> None:
        """Begin with the averages of `start`, by parameter name, or with the weights themselves.

        Raises:
            IntegrityError: `start` holds some, but not those of this model.
        """
        self.decay = decay
        self._parameters = dict(model.named_parameters())
        if start and start.keys() != self._parameters.keys():
            odd = min(start.keys() ^ self._parameters.keys())
            raise IntegrityError(f"averaged weights: {odd} is missing or belongs to no parameter of the model")
        self._averages = {
            name: copy_part(parameter.detach().clone(), start[name]) if start else parameter.detach().clone()
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take the weights in; `updates` optimizer steps were made before this one."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        weights = [local_part(parameter.detach())[0] for parameter in self._parameters.values()]
        torch._foreach_lerp_([local_part(average)[0] for average in self._averages.values()], weights, 1 - decay)

    def tensors(self) -> Tensors:
        """The averages by parameter name."""
        return self._averages

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights for the duration."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._give(self._averages)
        try:
            yield
        finally:
            self._give(own)

    @torch.no_grad()
    def _give(self, values: Tensors) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
