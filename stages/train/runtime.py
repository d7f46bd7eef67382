"""Where a run computes, and the process-wide switches that make it deterministic and fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from longcat.pipeline.engine.local import available_cores
from longcat.pipeline.errors import ConfigError
from longcat.stages.device import resolve_device, resolve_dtype
from longcat.stages.train.config import TrainingOptions


def choose_device(options: TrainingOptions) -> torch.device:
    """The device of a run.

    Raises:
        ConfigError: cuda was asked for and there is none.
    """
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but torch finds no CUDA device", hint="set device=cpu, see `longcat doctor`")
    return torch.device(resolve_device(options.device))


def choose_dtype(options: TrainingOptions, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products."""
    return torch.bfloat16 if resolve_dtype(options.dtype, device.type) == "bfloat16" else torch.float32


def processes_here() -> int:
    """How many processes of the run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def reproducible(threads: int | None) -> Iterator[None]:
    """Deterministic algorithms, a fixed number of threads and flushed denormals for the duration.

    Denormals alone can make a softmax over sharp logits ten times slower. The switch acts on this thread and those it
    starts, so it comes before the thread pool where training is the first thing a process does.
    """
    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    # cuBLAS reads this when its first handle is made; without it its products are not reproducible.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads or max(1, available_cores() // processes_here()))
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor costs 7 % of a step; no operation here reads what it has not written.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = before[2]
