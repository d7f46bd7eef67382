"""The process-wide switches that make a run deterministic and fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from longcat.pipeline.engine.local import available_cores


def processes_here() -> int:
    """Number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def reproducible(threads: int | None) -> Iterator[None]:
    """Context with deterministic algorithms, a fixed number of threads and flushed denormals.

    Denormals alone can make a softmax over sharp logits ten times slower. The setting applies to this thread and
    threads it starts, so it is set before the thread pool exists.
    """
    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    # cuBLAS reads this when its first handle is created; without it matrix products are not reproducible.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads or max(1, available_cores() // processes_here()))
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor costs 7 % of a step; no operation here reads uninitialized memory.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = before[2]
