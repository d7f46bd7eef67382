"""What a process holds of the model at the start of a run: all of it, or its part, with its values."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.stages.train.checkpoint import read_model, read_model_config, read_parts
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.parallel.build import Distributed, build_model, whole
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.state import initialize as initialize_parts
from longcat.stages.train.parallel.state import load_full_state
from longcat.stages.train.runtime import choose_device, choose_dtype
from longcat.stages.train.state import model_tensors


def join(options: TrainingOptions) -> Parallel:
    """This process's place in the run, on its device; collective where there are several.

    Raises:
        ConfigError: the degrees of parallelism do not fit the number of processes.
    """
    return Parallel.join(options.parallel, choose_device(options))


def new_weights(
    config: ModelConfig, options: TrainingOptions, parallel: Parallel, std: Mapping[str, float]
) -> Distributed:
    """A new model, initialised from the options' seed; `std` as in `model.init.initialize`."""
    dtype = choose_dtype(options, parallel.device)
    if parallel.is_distributed:
        held = build_model(config, parallel, dtype)
        initialize_parts(held, options.seed, std)
        return held
    return whole(new_model(config, options.seed, parallel.device, std), parallel.device, dtype)


def new_model(config: ModelConfig, seed: int, device: torch.device, std: Mapping[str, float]) -> LongcatFlash:
    """A plain model, initialised; `std` as in `model.init.initialize`."""
    model = LongcatFlash(config)
    initialize(model, seed, std)
    return model.to(device)


def checkpoint_weights(checkpoint: Artifact, options: TrainingOptions, parallel: Parallel) -> Distributed:
    """The model of a checkpoint; raises as `stages.train.checkpoint.read_model`."""
    if not parallel.is_distributed:
        return spread(read_model(checkpoint), options, parallel)
    held = build_model(read_model_config(checkpoint), parallel, choose_dtype(options, parallel.device))
    read_parts(checkpoint, held)
    return held


def spread(model: LongcatFlash, options: TrainingOptions, parallel: Parallel) -> Distributed:
    """Give every process its part of a whole model, which all of them have in host memory."""
    dtype = choose_dtype(options, parallel.device)
    if not parallel.is_distributed:
        return whole(model.to(parallel.device), parallel.device, dtype)
    held = build_model(model.config, parallel, dtype)
    load_full_state(held, model_tensors(model))
    return held


def empty_whole(config: ModelConfig) -> LongcatFlash:
    """A plain model in host memory whose values are still to be filled in."""
    with torch.device("meta"):
        model = LongcatFlash(config)
    return model.to_empty(device="cpu")
