"""A model for one process of many, built without ever holding a whole one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.context import share_context
from longcat.stages.train.parallel.expert import share_experts
from longcat.stages.train.parallel.fsdp import shard
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.stage import StageModule, layers_of_stage, reduce_to_stage


@dataclass(frozen=True)
class Distributed:
    """What one process holds of a model: the whole of it, its shards of the whole, or one or two runs of its layers.

    `models` have the names of the whole model; stand-ins without parameters take the place of what others hold. `roots`
    are what is called: the model itself or, under a pipeline, its stage. `dtype` is that of the matrix products.
    """

    parallel: Parallel
    config: ModelConfig
    dtype: torch.dtype
    stages: tuple[int, ...]
    models: tuple[LongcatFlash, ...]
    roots: tuple[nn.Module, ...]

    @property
    def model(self) -> LongcatFlash:
        """The model of a run without a pipeline."""
        (model,) = self.models
        return model

    @property
    def layers(self) -> list[int]:
        """The numbers of this process's layers."""
        stages = self.parallel.options.stages
        return [layer for stage in self.stages for layer in layers_of_stage(self.config.num_layers, stage, stages)]

    def layer_modules(self) -> dict[int, nn.Module]:
        """This process's layers by number."""
        stages = self.parallel.options.stages
        return {
            layer: model.model.layers[layer]
            for model, stage in zip(self.models, self.stages, strict=True)
            for layer in layers_of_stage(self.config.num_layers, stage, stages)
        }

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This process's parameters under the names of the whole model."""
        for model in self.models:
            yield from model.named_parameters()

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters, then buffers, which every process of a stage holds whole."""
        yield from self.named_parameters()
        for model in self.models:
            yield from model.named_buffers()

    def router_biases(self) -> list[torch.Tensor]:
        """The selection bias of every layer of `layers`, in order, to be updated in place."""
        return [bias for model in self.models for bias in model.router_biases()]


def whole(model: LongcatFlash, device: torch.device, dtype: torch.dtype) -> Distributed:
    """A plain model, as the only process of a run holds it."""
    return Distributed(Parallel(device=device), model.config, dtype, (0,), (model,), (model,))


def build_model(config: ModelConfig, parallel: Parallel, dtype: torch.dtype = torch.float32) -> Distributed:
    """This process's part of a model, in float32 on its device, with values left open: `state` has what fills them.

    `dtype` is that of the matrix products where there are several processes; one by itself holds plain parameters.
    """
    options = parallel.options
    stages = tuple(range(parallel.pipeline_rank, options.stages, parallel.sizes.pipeline))
    models, roots = [], []
    for stage in stages:
        with torch.device("meta"):
            model = LongcatFlash(config)
        reduce_to_stage(model, stage, options.stages)
        root = model if parallel.sizes.pipeline == 1 else StageModule(model, stage, options.stages)
        if parallel.sizes.context > 1:
            share_context(model, parallel)
        if parallel.sizes.expert > 1:
            share_experts(model, parallel)
        if parallel.is_distributed:
            shard(root, model, parallel, dtype)
        root.to_empty(device=parallel.device)
        models.append(model)
        roots.append(root)
    return Distributed(parallel, config, dtype, stages, tuple(models), tuple(roots))
