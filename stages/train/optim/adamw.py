"""AdamW for a model's parameters, and its moments as named tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from longcat.model.config import ModelConfig
from longcat.model.layout import NGRAM_TABLES
from longcat.model.parameter_kinds import Kind, parameter_kind
from longcat.pipeline.errors import IntegrityError
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim.kinds import KindsOptions, learning_rate_factors, weight_decay
from longcat.stages.train.optim.row_adamw import ROW_KEYS, RowAdamW, row_state
from longcat.stages.train.parallel.norms import by_mesh
from longcat.stages.train.parallel.state import copy_part

Tensors = dict[str, torch.Tensor]
ADAMW_KEYS = ("exp_avg", "exp_avg_sq", "step")
STATE_KEYS = (*ADAMW_KEYS, "rows")


class NamedParameters(Protocol):
    """A model, or a process's part of one."""

    @property
    def config(self) -> ModelConfig: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def build_optimizer(
    model: NamedParameters, options: OptimizerOptions, kinds: KindsOptions | None = None, scale: float = 1.0
) -> torch.optim.Optimizer:
    """Fused AdamW, with one group per parameter kind (`model.parameter_kinds`) and weight decay; n-gram tables by row.

    `kinds` are values by kind, `scale` is the s of the width (`stages.train.optim.kinds`). Weight decay is multiplied
    by the group's learning rate. Sharded parameters are also grouped by mesh.
    """
    kinds = kinds or KindsOptions()
    groups: dict[tuple[Kind, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        kind = parameter_kind(model.config, name, parameter.ndim)
        decay = weight_decay(kinds, kind, parameter.ndim, options.weight_decay)
        groups.setdefault((kind, decay, name == NGRAM_TABLES), []).append(parameter)
    rates = learning_rate_factors(kinds, scale)
    settings: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for (kind, decay, by_row), members in groups.items():
        own = {"kind": kind, "factor": rates[kind], "decay" if by_row else "weight_decay": decay}
        settings[by_row] += [{"params": parameters, **own} for parameters in by_mesh(members)]
    common: dict[str, Any] = {"betas": (options.beta1, options.beta2), "eps": options.eps}
    rest = torch.optim.AdamW(settings[False], lr=0.0, fused=True, **common)
    if not settings[True]:
        return rest
    return RowAdamW([{**group, **common, "cautious": False} for group in settings[True]], rest)


def by_row(optimizer: torch.optim.Optimizer) -> set[nn.Parameter]:
    """Parameters that `RowAdamW` updates."""
    return {parameter for group in optimizer.param_groups if group.get("by_row") for parameter in group["params"]}


def set_learning_rate(optimizer: torch.optim.Optimizer, base: float) -> None:
    """Set every group's learning rate to its factor times `base`."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]


def moments(model: NamedParameters, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state as `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` and `<parameter>.step` (a scalar).

    For tables by row these are of the rows in `<parameter>.rows`; of several processes, each has its own.
    """
    return {
        f"{name}.{key}": optimizer.state[parameter][key]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key in STATE_KEYS
        if key in optimizer.state[parameter]
    }


def moment_names(model: NamedParameters) -> list[str]:
    """Names that `moments` may return."""
    return [f"{name}.{key}" for name, _ in model.named_parameters() for key in STATE_KEYS]


def moments_like(model: NamedParameters, optimizer: torch.optim.Optimizer, names: Collection[str]) -> Tensors:
    """Create empty optimizer state for `names`, with the layout of the parameters; returns it for loading.

    Not for tables by row (`optim.row_state.load_rows`).

    Raises:
        IntegrityError: a name belongs to no parameter.
    """
    optimizer.state.clear()
    rowwise, left = by_row(optimizer), set(names)
    for name, parameter in model.named_parameters():
        if parameter in rowwise:
            left -= {f"{name}.{key}" for key in ROW_KEYS}
        if f"{name}.step" in names and parameter not in rowwise:
            # CUDA's fused kernel needs the step counts on the device too.
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moment = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": step, **moment}
    found = moments(model, optimizer)
    if left := left - found.keys():
        raise IntegrityError(f"optimizer state {min(left)} belongs to no parameter of the model")
    return found


def load_moments(model: NamedParameters, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore the state returned by `moments`; an empty mapping leaves the optimizer unchanged.

    Raises:
        IntegrityError: a tensor belongs to no parameter, is missing, or has another shape.
    """
    optimizer.state.clear()
    rowwise, left = by_row(optimizer), set(tensors)
    for name, parameter in model.named_parameters():
        keys = {key: f"{name}.{key}" for key in (ROW_KEYS if parameter in rowwise else ADAMW_KEYS)}
        if left.isdisjoint(keys.values()):
            continue
        if parameter in rowwise:
            optimizer.state[parameter] = row_state(name, parameter, tensors)
            left -= set(keys.values())
            continue
        state = {}
        for key, full in keys.items():
            expected = torch.Size() if key == "step" else parameter.shape
            if full not in tensors or tensors[full].shape != expected:
                found = tuple(tensors[full].shape) if full in tensors else "nothing"
                raise IntegrityError(f"optimizer state {full}: expected {tuple(expected)}, found {found}")
            # A copy: tensors of a memory-mapped file are unaligned, and alignment may change the last bit.
            # CUDA's fused kernel needs the step counts on the device too.
            like = parameter.detach() if key != "step" else torch.empty((), device=parameter.device)
            state[key] = copy_part(torch.empty_like(like, dtype=tensors[full].dtype), tensors[full])
            left.discard(full)
        optimizer.state[parameter] = state
    if left:
        raise IntegrityError(f"optimizer state {min(left)} belongs to no parameter of the model")
