"""Gathers whole tensors of a model that is distributed over processes, for comparison with a plain model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.pipeline_stage import reduce_to_stage

Part = Callable[[torch.Tensor], torch.Tensor]
Tensors = dict[str, torch.Tensor]


@torch.no_grad()
def full_tensors(distributed: Distributed, of: Part | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, whole tensor on the CPU) of the whole model on the first process; collective.

    The other processes get empty tensors and must consume the iterator too. With `of`, its result for every parameter
    replaces parameters and buffers, for example gradients or optimizer states.
    """
    parallel = distributed.parallel
    for stage in range(parallel.options.pipeline_stages):
        holds = stage in distributed.pipeline_stages
        for name, shape in _stage_shapes(distributed.config, stage, parallel.options.pipeline_stages, of is None):
            whole = _gather(distributed, stage, name, of) if holds else None
            yield name, _at_first(parallel.rank, stage, distributed, whole, shape)


def full_state(distributed: Distributed) -> Tensors:
    """The whole model on the first process, an empty dict on the others; collective."""
    return {name: tensor.clone() for name, tensor in full_tensors(distributed) if distributed.parallel.is_first}


def _stage_shapes(config: ModelConfig, stage: int, stages: int, buffers: bool) -> list[tuple[str, torch.Size]]:
    with torch.device("meta"):
        model = LongcatFlash(config)
    reduce_to_stage(model, stage, stages)
    named = [(name, parameter.shape) for name, parameter in model.named_parameters()]
    return named + [(name, buffer.shape) for name, buffer in model.named_buffers() if buffers]


def _gather(distributed: Distributed, stage: int, name: str, of: Part | None) -> torch.Tensor:
    model = distributed.models[distributed.pipeline_stages.index(stage)]
    path, _, last = name.rpartition(".")
    tensor: torch.Tensor = getattr(model.get_submodule(path), last)
    if of is not None:
        tensor = of(tensor)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _at_first(
    rank: int, stage: int, distributed: Distributed, whole: torch.Tensor | None, shape: torch.Size
) -> torch.Tensor:
    """Send a tensor of a stage to the first process, from the first process that has it."""
    parallel = distributed.parallel
    holder = stage % parallel.sizes.pipeline * (parallel.world // parallel.sizes.pipeline)
    if holder != 0 and rank == 0:
        received = torch.empty(shape, device=parallel.device)
        dist.recv(received, holder)
        return received.cpu()
    if holder != 0 and rank == holder and whole is not None:
        dist.send(whole.contiguous(), 0)
    return whole.cpu() if whole is not None and rank == 0 else torch.empty(0)
