"""Optimizers that update some parameters themselves, and leave the others to another optimizer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


class JoinedOptimizer(torch.optim.Optimizer):
    """An optimizer of its `own` groups, and `rest` for all other parameters: one list of groups, one state for all."""

    def __init__(self, groups: Sequence[Mapping[str, Any]], rest: torch.optim.Optimizer) -> None:
        super().__init__([dict(group) for group in groups], {"lr": 0.0})
        self.own, self.rest = list(self.param_groups), rest
        self.param_groups += rest.param_groups
        self._share(self.state)

    def _share(self, state: Any) -> None:
        self.state = state
        if isinstance(self.rest, JoinedOptimizer):
            self.rest._share(state)
        else:
            self.rest.state = state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters with a gradient; collective if one of the optimizers is."""
        loss = self.rest.step(closure)
        for group in self.own:
            self.update(group)
        return loss

    @abstractmethod
    def update(self, group: Mapping[str, Any]) -> None:
        """One step of the parameters with a gradient in one of the own groups."""
