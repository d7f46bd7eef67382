"""Cautious weight decay (Chen et al. 2025): decay only where it goes in the direction of the update.

    x <- x - rate (u + decay x [u x >= 0])        u: update direction

Decay elsewhere would work against the update. Costs a temporary of the size of a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from longcat.stages.train.parallel.state import local_part


def decay(x: torch.Tensor, update: torch.Tensor, amount: float, *, cautious: bool) -> None:
    """Subtract `amount` times the values of `x` in place; if `cautious`, only where `update`, which is to be
    subtracted, has their sign."""
    if not cautious:
        x.mul_(1 - amount)
    elif amount:
        x.addcmul_(x, update * x >= 0, value=-amount)


class CautiousAdamW(torch.optim.AdamW):
    """Fused AdamW with cautious weight decay: `decay` of a group, whose `weight_decay` is 0.

    The sign of an update is that of the first moment after this step's gradient.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, see `torch.optim.AdamW.step`."""
        for group in self.param_groups:
            for parameter in group["params"] if group["decay"] else ():
                if parameter.grad is None:
                    continue
                gradient, state = local_part(parameter.grad)[0], self.state[parameter]
                before = local_part(state["exp_avg"])[0] if "exp_avg" in state else torch.zeros_like(gradient)
                first = before.lerp(gradient, 1 - group["betas"][0])
                decay(local_part(parameter)[0], first, group["lr"] * group["decay"], cautious=True)
        return super().step(closure)
