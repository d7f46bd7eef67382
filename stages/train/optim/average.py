"""Exponential moving average of the weights in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from longcat.pipeline.errors import IntegrityError
from longcat.stages.formats.checkpoint import Tensors
from longcat.stages.train.optim.adamw import NamedParameters
from longcat.stages.train.optim.after_step import StepDone
from longcat.stages.train.parallel.state import copy_part, local_part


class WeightAverage:
    """`average = decay * average + (1 - decay) * weights` after every optimizer step.

    The decay rises as (1 + n) / (10 + n) over the first updates n, so that the initial values have little weight.
    """

    group = "average"

    def __init__(self, model: NamedParameters, decay: float, start: Tensors) -> None:
        """Start from the averages in `start`, by parameter name, or from the weights.

        Raises:
            IntegrityError: the names in `start` are not those of this model.
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

    def after_step(self, done: StepDone) -> None:
        """Update the averages, see `stages.train.optim.after_step`."""
        self.update(done.step - 1)

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Update the averages; `updates` is the number of previous optimizer steps."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        weights = [local_part(parameter.detach())[0] for parameter in self._parameters.values()]
        torch._foreach_lerp_([local_part(average)[0] for average in self._averages.values()], weights, 1 - decay)

    def tensors(self) -> Tensors:
        """Averages by parameter name."""
        return self._averages

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
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
