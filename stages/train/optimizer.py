"""AdamW over a model's parameters, and its moments as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from model.parameter_kinds import parameter_kind
from pipeline.errors import IntegrityError
from stages.train.config import OptimizerOptions

Tensors = dict[str, torch.Tensor]
STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")


def build_optimizer(
    model: nn.Module, options: OptimizerOptions, factors: Mapping[str, float] | None = None
) -> torch.optim.AdamW:
    """Fused AdamW, a group for each kind of parameter (`model.parameter_kinds`) and weight decay.

    `factors` are those on the learning rate by kind, 1 where none is given. Weight decay acts on tensors of two and
    more dimensions, so not on the norms; it is multiplied by the group's learning rate.
    """
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decay = options.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((parameter_kind(name, parameter.ndim), decay), []).append(parameter)
    settings = [
        {"params": parameters, "weight_decay": decay, "kind": kind, "factor": (factors or {}).get(kind, 1.0)}
        for (kind, decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(settings, lr=0.0, betas=(options.beta1, options.beta2), eps=options.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, base: float) -> None:
    """Give every group its factor of the learning rate `base`."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state as `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` and `<parameter>.step` (a scalar)."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key in STATE_KEYS
    }


def load_moments(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give every parameter the state that `moments` took; an empty mapping leaves the optimizer fresh.

    Raises:
        IntegrityError: a tensor belongs to no parameter, is missing, or has another shape.
    """
    optimizer.state.clear()
    left = set(tensors)
    for name, parameter in model.named_parameters():
        keys = {key: f"{name}.{key}" for key in STATE_KEYS}
        if left.isdisjoint(keys.values()):
            continue
        state = {}
        for key, full in keys.items():
            expected = torch.Size() if key == "step" else parameter.shape
            if full not in tensors or tensors[full].shape != expected:
                found = tuple(tensors[full].shape) if full in tensors else "nothing"
                raise IntegrityError(f"optimizer state {full}: {tuple(expected)} is needed, found {found}")
            # A copy of our own: tensors of a memory-mapped file lie unaligned, and alignment may change the last bit.
            # CUDA's fused kernel wants the step counts on the device as well.
            state[key] = torch.empty_like(tensors[full], device=parameter.device).copy_(tensors[full])
            left.discard(full)
        optimizer.state[parameter] = state
    if left:
        raise IntegrityError(f"optimizer state {min(left)} belongs to no parameter of the model")
