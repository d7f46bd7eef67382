"""Values of a sharded model: random, or from a checkpoint. Never materializes a whole model.

Names: a source is a function from a parameter's name and a range of its first dimension to the values; the rows of an
    expert stack are experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch.distributed.tensor import DTensor, Shard

from longcat.model.config import ModelConfig
from longcat.model.init import check_seed, initial_value
from longcat.model.layout import DOWN, GATE_UP, NGRAM_PROJECTION, NGRAM_TABLES, ngram_parts
from longcat.stages.train.parallel.build import Distributed

Source = Callable[[str, torch.Size, range], torch.Tensor]


def initialize(distributed: Distributed, seed: int, std: Mapping[str, float] | None = None) -> None:
    """Set every process's part of the values of `model.init.initialize`; no communication.

    Every published tensor has its own random stream. A process draws the tensors of which it holds a part, one by one,
    and keeps that part: its own experts, and its rows of other matrices.

    Raises:
        ModelError: `seed` is negative.
    """
    check_seed(seed)

    def source(name: str, shape: torch.Size, rows: range) -> torch.Tensor:
        value = partial(initial_value, distributed.config, seed, std=std)
        return _published_rows(distributed.config, value, name, shape, rows)

    fill(distributed.named_tensors(), source)


def _published_rows(
    config: ModelConfig, value: Callable[..., torch.Tensor], name: str, shape: torch.Size, rows: range
) -> torch.Tensor:
    """Rows of a tensor from a function of published key and shape, which handles no stacks of experts or tables."""
    if name in (NGRAM_TABLES, NGRAM_PROJECTION):
        return _ngram_rows(config, value, name, shape, rows)
    if not name.endswith((GATE_UP, DOWN)):
        return value(name, shape)[rows.start : rows.stop]
    prefix, _, kind = name.rpartition(".")
    if kind == "down_proj":
        return torch.stack([value(f"{prefix}.{e}.down_proj.weight", shape[1:]) for e in rows])
    half = (shape[1] // 2, shape[2])
    parts = [[value(f"{prefix}.{e}.{p}_proj.weight", half) for p in ("gate", "up")] for e in rows]
    return torch.stack([torch.cat(pair) for pair in parts])


def _ngram_rows(
    config: ModelConfig, value: Callable[..., torch.Tensor], name: str, shape: torch.Size, rows: range
) -> torch.Tensor:
    """Rows of the stacked n-gram tables, or of their projections side by side."""
    parts, dimension = ngram_parts(config, name)
    if dimension:
        return torch.cat([value(key, (shape[0], size))[rows.start : rows.stop] for key, _, size in parts], dim=1)
    held = [
        value(key, (size, shape[1]))[max(0, rows.start - start) : rows.stop - start]
        for key, start, size in parts
        if start < rows.stop and start + size > rows.start
    ]
    return torch.cat(held)


def load_published(distributed: Distributed, read: Callable[[str], torch.Tensor]) -> None:
    """Load this process's part of a published checkpoint; `read` returns a tensor by its published key."""

    def source(name: str, shape: torch.Size, rows: range) -> torch.Tensor:
        return _published_rows(distributed.config, lambda key, _: read(key), name, shape, rows)

    fill(distributed.named_tensors(), source)


def load_full_state(distributed: Distributed, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy this process's part of whole tensors (memory-mapped ones are read only where needed).

    Raises:
        KeyError: a tensor of the model is missing.
    """
    fill(distributed.named_tensors(), lambda name, _, rows: tensors[name][rows.start : rows.stop])


@torch.no_grad()
def fill(tensors: Iterable[tuple[str, torch.Tensor]], source: Source) -> None:
    """Set this process's part of named tensors from `source`: parameters, or optimizer state."""
    for name, tensor in tensors:
        local, bounds = local_part(tensor)
        if local.numel():
            values = source(name, tensor.shape, bounds[0])
            for dimension, bound in enumerate(bounds[1:], start=1):
                values = values.narrow(dimension, bound.start, len(bound))
            local.copy_(values)


@torch.no_grad()
def copy_part(tensor: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Fill the local part of `tensor` from the whole tensor; returns `tensor`."""
    local, bounds = local_part(tensor)
    for dimension, bound in enumerate(bounds):
        whole = whole.narrow(dimension, bound.start, len(bound))
    local.copy_(whole)
    return tensor


def local_part(tensor: torch.Tensor) -> tuple[torch.Tensor, list[range]]:
    """Local part of a tensor, and its range in each dimension."""
    bounds = [range(size) for size in tensor.shape]
    if not isinstance(tensor, DTensor):
        return tensor, bounds
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Shard):
            mesh = tensor.device_mesh
            along = bounds[placement.dim]
            chunk = -(-len(along) // mesh.size(dimension))
            rank = mesh.get_local_rank(dimension)
            bounds[placement.dim] = along[rank * chunk : (rank + 1) * chunk]
    return tensor.to_local(), bounds
