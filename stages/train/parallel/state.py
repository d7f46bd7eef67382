"""Values of a model in shards: drawn, loaded, and put together again. Nothing here ever holds a whole model.

Names: a source is a function from a parameter's name and a range of its first dimension to the values there; the rows
of a stack of experts are experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard

from model.config import ModelConfig
from model.init import check_seed, initial_value
from model.layout import DOWN, GATE_UP
from model.transformer import LongcatFlash
from stages.train.parallel.build import Distributed
from stages.train.parallel.stage import reduce_to_stage

Source = Callable[[str, torch.Size, range], torch.Tensor]
Part = Callable[[torch.Tensor], torch.Tensor]
Tensors = dict[str, torch.Tensor]


def initialize(distributed: Distributed, seed: int, std: Mapping[str, float] | None = None) -> None:
    """Give every process its part of what `model.init.initialize` gives a whole model; no communication.

    Every published tensor has a stream of its own. A process draws the tensors of which it holds any part, one after
    another, and keeps that part: of experts its own, of other matrices the whole one for a share of their rows.

    Raises:
        ModelError: `seed` is negative.
    """
    check_seed(seed)

    def source(name: str, shape: torch.Size, rows: range) -> torch.Tensor:
        return _published_rows(partial(initial_value, distributed.config, seed, std=std), name, shape, rows)

    fill(distributed.named_tensors(), source)


def _published_rows(value: Callable[..., torch.Tensor], name: str, shape: torch.Size, rows: range) -> torch.Tensor:
    """Rows of a tensor from a function of published key and shape, which knows no stacks of experts."""
    if not name.endswith((GATE_UP, DOWN)):
        return value(name, shape)[rows.start : rows.stop]
    prefix, _, kind = name.rpartition(".")
    if kind == "down_proj":
        return torch.stack([value(f"{prefix}.{e}.down_proj.weight", shape[1:]) for e in rows])
    half = (shape[1] // 2, shape[2])
    parts = [[value(f"{prefix}.{e}.{p}_proj.weight", half) for p in ("gate", "up")] for e in rows]
    return torch.stack([torch.cat(pair) for pair in parts])


def load_published(distributed: Distributed, read: Callable[[str], torch.Tensor]) -> None:
    """Take this process's part out of a published checkpoint; `read` gives a tensor by its published key."""

    def source(name: str, shape: torch.Size, rows: range) -> torch.Tensor:
        return _published_rows(lambda key, _: read(key), name, shape, rows)

    fill(distributed.named_tensors(), source)


def load_full_state(distributed: Distributed, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take this process's part out of whole tensors (memory-mapped ones are read only where needed).

    Raises:
        KeyError: a tensor of the model is missing.
    """
    fill(distributed.named_tensors(), lambda name, _, rows: tensors[name][rows.start : rows.stop])


@torch.no_grad()
def fill(tensors: Iterable[tuple[str, torch.Tensor]], source: Source) -> None:
    """Set this process's part of named tensors from `source`: parameters, or what an optimizer holds for them."""
    for name, tensor in tensors:
        local, bounds = local_part(tensor)
        if local.numel():
            values = source(name, tensor.shape, bounds[0])
            for dimension, bound in enumerate(bounds[1:], start=1):
                values = values.narrow(dimension, bound.start, len(bound))
            local.copy_(values)


@torch.no_grad()
def copy_part(tensor: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """Fill what this process holds of `tensor` from the whole of it; returns `tensor`."""
    local, bounds = local_part(tensor)
    for dimension, bound in enumerate(bounds):
        whole = whole.narrow(dimension, bound.start, len(bound))
    local.copy_(whole)
    return tensor


def local_part(tensor: torch.Tensor) -> tuple[torch.Tensor, list[range]]:
    """What this process holds of a tensor, and where that lies in each of its dimensions."""
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


@torch.no_grad()
def full_tensors(distributed: Distributed, of: Part | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, whole tensor on the processor) of the whole model one after another, on the first process; collective.

    The others get empty tensors and must go through all of them too. With `of`, what it returns for every parameter
    takes the place of parameters and buffers: gradients, or what an optimizer holds.
    """
    parallel = distributed.parallel
    for stage in range(parallel.options.stages):
        holds = stage in distributed.stages
        for name, shape in _stage_shapes(distributed.config, stage, parallel.options.stages, of is None):
            whole = _gather(distributed, stage, name, of) if holds else None
            yield name, _at_first(parallel.rank, stage, distributed, whole, shape)


def full_state(distributed: Distributed) -> Tensors:
    """The whole model on the first process, nothing elsewhere; collective."""
    return {name: tensor.clone() for name, tensor in full_tensors(distributed) if distributed.parallel.is_first}


def _stage_shapes(config: ModelConfig, stage: int, stages: int, buffers: bool) -> list[tuple[str, torch.Size]]:
    with torch.device("meta"):
        model = LongcatFlash(config)
    reduce_to_stage(model, stage, stages)
    named = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    return named + [(name, buffer.shape) for name, buffer in model.named_buffers() if buffers]


def _gather(distributed: Distributed, stage: int, name: str, of: Part | None) -> torch.Tensor:
    model = distributed.models[distributed.stages.index(stage)]
    path, _, last = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(path), last)
    if of is not None:
        tensor = of(tensor)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _at_first(
    rank: int, stage: int, distributed: Distributed, whole: torch.Tensor | None, shape: torch.Size
) -> torch.Tensor:
    """Hand a tensor of a stage to the first process, from the first one that holds it."""
    parallel = distributed.parallel
    holder = stage % parallel.sizes.pipeline * (parallel.world // parallel.sizes.pipeline)
    if holder != 0 and rank == 0:
        received = torch.empty(shape, device=parallel.device)
        dist.recv(received, holder)
        return received.cpu()
    if holder != 0 and rank == holder and whole is not None:
        dist.send(whole.contiguous(), 0)
    return whole.cpu() if whole is not None and rank == 0 else torch.empty(0)
