"""What the load balance between processes cannot be combined with; no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from longcat.pipeline.errors import ConfigError
from longcat.stages.train.parallel.config import degrees

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig
    from longcat.stages.train.config import TrainingOptions


def different_layers(model: ModelConfig) -> int:
    """Layers until the attention pattern begins again at the first module of a layer."""
    return min(model.num_layers, math.lcm(len(model.mixers), 2) // 2)


def check_balance(options: TrainingOptions, model: ModelConfig, batch_size: int) -> None:
    """Raise ConfigError if the options for the load balance do not fit the model, the batch or the processes."""
    balance = options.sparse_balance
    if not balance.enabled:
        return
    data = degrees(options.parallel, options.world_size).data
    groups = balance.groups or data
    if groups % data:
        raise ConfigError(
            f"sparse_balance.groups = {groups} is not a multiple of data_replicate * data_shard = {data}",
            hint="choose a multiple, or another number of processes",
        )
    if batch_size % groups:
        raise ConfigError(
            f"sparse_balance: batch_size = {batch_size} is not a multiple of groups = {groups}",
            hint="every group computes as many windows; choose a multiple",
        )
    layers = different_layers(model)
    if balance.latency is not None and len(balance.latency) != layers:
        raise ConfigError(
            f"sparse_balance.latency has {len(balance.latency)} rows, the model {layers} different layers",
            hint="give one row for every layer until the attention pattern begins again",
        )
    if balance.moves_budgets:
        _check_budgets(options, model)


def _check_budgets(options: TrainingOptions, model: ModelConfig) -> None:
    named = f"sparse_balance.budgets = {options.sparse_balance.budgets}"
    if options.parallel.context > 1:
        raise ConfigError(
            f"{named} with parallel.context = {options.parallel.context}: coverage is measured on whole rows",
            hint="set parallel.context: 1, or sparse_balance.budgets: fixed",
        )
    if options.compile:
        raise ConfigError(
            f"{named} with compile: true: coverage is measured between compiled blocks",
            hint="set compile: false, or sparse_balance.budgets: fixed",
        )
    for layer in range(model.num_layers):
        budgets = []
        for slot in (2 * layer, 2 * layer + 1):
            spec = model.mixer(slot)
            budgets.append(spec.mixer.budget_in(model, slot))
            if budgets[-1] is None:
                raise ConfigError(
                    f"{named}: attention {spec.kind!r} of layer {layer} has no budgets",
                    hint="use a kind that selects keys in every slot, or set sparse_balance.budgets: fixed",
                )
        if budgets[0] != budgets[1]:
            raise ConfigError(
                f"{named}: the attention modules of layer {layer} have the budgets {budgets[0]} and {budgets[1]}",
                hint="both modules of a layer get one budget; give them the same",
            )
