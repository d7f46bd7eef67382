"""The optimizer of a model, AdamW or Muon, and its moments as named tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import nn

from longcat.model.config import ModelConfig
from longcat.model.layout import NGRAM_TABLES
from longcat.model.matrices import Matrices, matrices_of
from longcat.model.parameter_kinds import Kind, parameter_kind
from longcat.pipeline.errors import ConfigError, IntegrityError
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim.cautious import CautiousAdamW
from longcat.stages.train.optim.kinds import ADAM, KindsOptions, learning_rate_factors, weight_decay
from longcat.stages.train.optim.muon import Muon, Update
from longcat.stages.train.optim.row_adamw import ROW_KEYS, RowAdamW, row_state
from longcat.stages.train.parallel.norms import by_mesh
from longcat.stages.train.parallel.state import copy_part

Tensors = dict[str, torch.Tensor]
ADAMW_KEYS, MUON_KEYS = ("exp_avg", "exp_avg_sq", "step"), ("momentum",)
STATE_KEYS = (*ADAMW_KEYS, *MUON_KEYS, "rows")

# Which optimizer updates a parameter.
How = Literal["adamw", "rows", "muon"]


class NamedParameters(Protocol):
    """A model, or a process's part of one."""

    @property
    def config(self) -> ModelConfig: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...


def build_optimizer(
    model: NamedParameters,
    options: OptimizerOptions,
    kinds: KindsOptions | None = None,
    scale: float = 1.0,
    *,
    dtype: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """The optimizer of `options`, with one group per parameter kind (`model.parameter_kinds`) and weight decay;
    n-gram tables by row.

    `kinds` are values by kind, `scale` is the s of the width (`stages.train.optim.kinds`), `dtype` that of the run's
    matrix products. Weight decay is multiplied by the group's learning rate. Sharded parameters are also grouped by
    mesh.
    """
    kinds = kinds or KindsOptions()
    groups: dict[tuple[Kind, float, How], list[nn.Parameter]] = {}
    matrices: dict[nn.Parameter, Matrices] = {}
    for name, parameter in model.named_parameters():
        found = _matrices(model, options, name, parameter)
        if found is not None:
            matrices[parameter] = found
        how: How = "muon" if found is not None else "rows" if name == NGRAM_TABLES else "adamw"
        kind = parameter_kind(model.config, name, parameter.ndim)
        decay = weight_decay(kinds, kind, parameter.ndim, options.weight_decay)
        groups.setdefault((kind, decay, how), []).append(parameter)
    settings: dict[How, list[dict[str, Any]]] = {"adamw": [], "rows": [], "muon": []}
    for (kind, decay, how), members in groups.items():
        rates = learning_rate_factors(kinds, scale, options.hidden_update if how == "muon" else ADAM)
        own = {"kind": kind, "factor": rates[kind], "decay": decay, "cautious": options.cautious_decay}
        settings[how] += [{"params": parameters, **own} for parameters in by_mesh(members)]
    adam: dict[str, Any] = {"betas": (options.beta1, options.beta2), "eps": options.eps}
    optimizer: torch.optim.Optimizer = _adamw(settings["adamw"], options.cautious_decay, adam)
    if settings["rows"]:
        optimizer = RowAdamW([{**group, **adam} for group in settings["rows"]], optimizer)
    return _muon(settings["muon"], matrices, optimizer, options, dtype) if matrices else optimizer


def _muon(
    groups: list[dict[str, Any]],
    matrices: dict[nn.Parameter, Matrices],
    rest: torch.optim.Optimizer,
    options: OptimizerOptions,
    dtype: torch.dtype,
) -> Muon:
    muon = options.muon
    update = Update(muon.steps, muon.scale, dtype if muon.dtype == "auto" else getattr(torch, muon.dtype))
    own = {"update": update, "matrices": matrices, "momentum": muon.momentum, "nesterov": muon.nesterov}
    return Muon([{**group, **own} for group in groups], rest)


def _matrices(model: NamedParameters, options: OptimizerOptions, name: str, parameter: nn.Parameter) -> Matrices | None:
    """What Muon orthogonalises in a parameter; None if AdamW updates it."""
    if options.kind != "muon":
        return None
    return matrices_of(model.config, name, parameter.shape, per_head=options.muon.per_head)


def _adamw(groups: list[dict[str, Any]], cautious: bool, common: dict[str, Any]) -> torch.optim.AdamW:
    kind = CautiousAdamW if cautious else torch.optim.AdamW
    settings = [{**group, "weight_decay": 0.0 if cautious else group["decay"]} for group in groups]
    return kind(settings, lr=0.0, fused=True, **common)


def by_row(optimizer: torch.optim.Optimizer) -> set[nn.Parameter]:
    """Parameters that `RowAdamW` updates."""
    return {parameter for group in optimizer.param_groups if group.get("by_row") for parameter in group["params"]}


def set_learning_rate(optimizer: torch.optim.Optimizer, base: float) -> None:
    """Set every group's learning rate to its factor times `base`."""
    for group in optimizer.param_groups:
        group["lr"] = base * group["factor"]


def moments(model: NamedParameters, optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state: of AdamW `<parameter>.exp_avg`, `<parameter>.exp_avg_sq` and `<parameter>.step` (a
    scalar), of Muon `<parameter>.momentum`.

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
            continue
        keys = [key for key in STATE_KEYS if f"{name}.{key}" in names]
        if keys:
            # CUDA's fused kernel needs the step counts on the device too.
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            optimizer.state[parameter] = {key: step if key == "step" else torch.zeros_like(parameter) for key in keys}
    found = moments(model, optimizer)
    if left := left - found.keys():
        raise IntegrityError(f"optimizer state {min(left)} belongs to no parameter of the model")
    return found


def load_moments(model: NamedParameters, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restore the state returned by `moments`; an empty mapping leaves the optimizer unchanged.

    Raises:
        ConfigError: it is that of the other optimizer.
        IntegrityError: a tensor belongs to no parameter, is missing, or has another shape.
    """
    optimizer.state.clear()
    rowwise, left = by_row(optimizer), set(tensors)
    by_muon = {parameter for group in optimizer.param_groups if "momentum" in group for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        kept = ROW_KEYS if parameter in rowwise else MUON_KEYS if parameter in by_muon else ADAMW_KEYS
        _check_same_kind(name, kept, tensors)
        keys = {key: f"{name}.{key}" for key in kept}
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


def _check_same_kind(name: str, kept: Collection[str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ConfigError if a parameter's state is that of the other optimizer."""
    other = ADAMW_KEYS if kept == MUON_KEYS else MUON_KEYS
    if any(f"{name}.{key}" in tensors for key in other):
        before, now = ("adamw", "muon") if kept == MUON_KEYS else ("muon", "adamw")
        raise ConfigError(
            f"optimizer.kind is {now}, the optimizer state of {name} in the checkpoint is that of {before}",
            hint=f"set optimizer.state: reset to start without it, or optimizer.kind: {before}",
        )
