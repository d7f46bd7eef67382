"""Model for one of many processes, built without materializing the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import Embedding
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.context import share_context
from longcat.stages.train.parallel.expert import distribute_experts
from longcat.stages.train.parallel.fsdp import shard
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.pipeline_stage import PipelineStageModule, layers_of_stage, reduce_to_stage


@dataclass(frozen=True)
class Distributed:
    """Part of a model held by one process: all, shards, or one or two ranges of layers.

    `models` have the names of the whole model; placeholders without parameters replace the parts of other processes.
    `roots` are the called modules: the model or, under a pipeline, its stages. `dtype` is the compute dtype.
    """

    parallel: Parallel
    config: ModelConfig
    dtype: torch.dtype
    pipeline_stages: tuple[int, ...]
    models: tuple[LongcatFlash, ...]
    roots: tuple[nn.Module, ...]

    @property
    def model(self) -> LongcatFlash:
        """Model of a run without a pipeline."""
        (model,) = self.models
        return model

    @property
    def layers(self) -> list[int]:
        """Indices of this process's layers."""
        stages = self.parallel.options.pipeline_stages
        return [
            layer for stage in self.pipeline_stages for layer in layers_of_stage(self.config.num_layers, stage, stages)
        ]

    def layer_modules(self) -> dict[int, nn.Module]:
        """This process's layers by index."""
        stages = self.parallel.options.pipeline_stages
        return {
            layer: model.model.layers[layer]
            for model, stage in zip(self.models, self.pipeline_stages, strict=True)
            for layer in layers_of_stage(self.config.num_layers, stage, stages)
        }

    @property
    def look_back(self) -> int:
        """Earlier ids that the embedding of this process needs; 0 if another process has it."""
        held = (model.model.embed_tokens for model in self.models)
        return max((module.look_back for module in held if isinstance(module, Embedding)), default=0)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This process's parameters by their names in the whole model."""
        for model in self.models:
            yield from model.named_parameters()

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters, then buffers, which are replicated within a stage."""
        yield from self.named_parameters()
        for model in self.models:
            yield from model.named_buffers()

    def router_biases(self) -> list[torch.Tensor]:
        """The selection bias of every layer of `layers`, in order, to be updated in place."""
        return [bias for model in self.models for bias in model.router_biases()]


def whole(model: LongcatFlash, device: torch.device, dtype: torch.dtype) -> Distributed:
    """Plain model of a single-process run."""
    return Distributed(Parallel(device=device), model.config, dtype, (0,), (model,), (model,))


def build_model(config: ModelConfig, parallel: Parallel, dtype: torch.dtype = torch.float32) -> Distributed:
    """This process's part of a model, in float32 on its device, without values; `stages.train.parallel.state` sets
    them.

    `dtype` is the compute dtype with several processes; a single process holds plain parameters.
    """
    options = parallel.options
    stages = tuple(range(parallel.pipeline_rank, options.pipeline_stages, parallel.sizes.pipeline))
    models, roots = [], []
    for stage in stages:
        with torch.device("meta"):
            model = LongcatFlash(config)
        reduce_to_stage(model, stage, options.pipeline_stages)
        root = model if parallel.sizes.pipeline == 1 else PipelineStageModule(model, stage, options.pipeline_stages)
        if parallel.sizes.context > 1:
            share_context(model, parallel)
        if parallel.sizes.expert > 1:
            distribute_experts(model, parallel)
        if parallel.is_distributed:
            shard(root, model, parallel, dtype)
        root.to_empty(device=parallel.device)
        models.append(model)
        roots.append(root)
    return Distributed(parallel, config, dtype, stages, tuple(models), tuple(roots))
