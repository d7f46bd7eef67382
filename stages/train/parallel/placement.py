"""A process's part of the model, with values, at the start of a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from longcat.model.checkpoint import reading
from longcat.model.config import ModelConfig
from longcat.model.errors import CheckpointError
from longcat.model.init import initialize
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import IntegrityError
from longcat.stages.device import choose_device, choose_dtype
from longcat.stages.formats.checkpoint import read_model, read_model_config
from longcat.stages.train.checkpoints.resumable import model_tensors
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.parallel.build import Distributed, build_model, whole
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.state import initialize as initialize_parts
from longcat.stages.train.parallel.state import load_full_state, load_published


def join(options: TrainingOptions) -> Parallel:
    """Position of this process in the run, on its device; collective with several processes.

    Raises:
        ConfigError: the degrees of parallelism do not fit the number of processes.
    """
    return Parallel.join(options.parallel, choose_device(options.device))


def new_weights(
    config: ModelConfig, options: TrainingOptions, parallel: Parallel, std: Mapping[str, float]
) -> Distributed:
    """New model, initialised from the options' seed; `std` as in `model.init.initialize`."""
    dtype = choose_dtype(options.dtype, parallel.device)
    if parallel.is_distributed:
        held = build_model(config, parallel, dtype)
        initialize_parts(held, options.seed, std)
        return held
    return whole(new_model(config, options.seed, parallel.device, std), parallel.device, dtype)


def new_model(config: ModelConfig, seed: int, device: torch.device, std: Mapping[str, float]) -> LongcatFlash:
    """Plain model, initialised; `std` as in `model.init.initialize`."""
    model = LongcatFlash(config)
    initialize(model, seed, std)
    return model.to(device)


def checkpoint_weights(checkpoint: Artifact, options: TrainingOptions, parallel: Parallel) -> Distributed:
    """Model of a checkpoint; raises as `stages.formats.checkpoint.read_model`."""
    if not parallel.is_distributed:
        return spread(read_model(checkpoint), options, parallel)
    held = build_model(read_model_config(checkpoint), parallel, choose_dtype(options.dtype, parallel.device))
    _read_parts(checkpoint, held)
    return held


def _read_parts(checkpoint: Artifact, held: Distributed) -> None:
    """Load this process's part of the weights of a checkpoint; raises as `read_model`."""
    try:
        with reading(checkpoint.path) as (_, read):
            load_published(held, read)
    except CheckpointError as error:
        raise IntegrityError(str(error)) from None


def spread(model: LongcatFlash, options: TrainingOptions, parallel: Parallel) -> Distributed:
    """Copy every process's part from a whole model in its host memory."""
    dtype = choose_dtype(options.dtype, parallel.device)
    if not parallel.is_distributed:
        return whole(model.to(parallel.device), parallel.device, dtype)
    held = build_model(model.config, parallel, dtype)
    load_full_state(held, model_tensors(model))
    return held


def empty_whole(config: ModelConfig) -> LongcatFlash:
    """Plain model in host memory without values."""
    with torch.device("meta"):
        model = LongcatFlash(config)
    return model.to_empty(device="cpu")
