"""AdamW over a model's parameters, and its moments as named tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import nn

from pipeline.errors import IntegrityError
from stages.train.config import OptimizerOptions

Tensors = dict[str, torch.Tensor]
STATE_KEYS = ("exp_avg", "exp_avg_sq", "step")


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.AdamW:
    """Fused AdamW; weight decay acts on tensors of two and more dimensions, so not on the norms."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(options.beta1, options.beta2), eps=options.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state as `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` and `<parameter>.step` (a scalar)."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key in STATE_KEYS
    }


def moments_like(model: nn.Module, optimizer: torch.optim.Optimizer, names: Collection[str]) -> Tensors:
    """Give the optimizer empty state where `names` have any, laid out as the parameters are; returns it to be filled.

    Raises:
        IntegrityError: a name belongs to no parameter.
    """
    optimizer.state.clear()
    for name, parameter in model.named_parameters():
        if f"{name}.step" in names:
            # CUDA's fused kernel wants the step counts on the device as well.
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moment = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": step, **moment}
    found = moments(model, optimizer)
    if left := set(names) - found.keys():
        raise IntegrityError(f"optimizer state {min(left)} belongs to no parameter of the model")
    return found


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
