"""Control messages between the processes of a run: flags, small JSON values, barriers.

Uses gloo and host memory even if tensors use NCCL, so it never waits for a GPU. In a single process every function
returns at once.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist

from longcat.pipeline.files import canonical_json

# The slowest writer of a checkpoint may take long; a dead writer is detected by its broken connection.
BACKGROUND_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Group:
    """All processes of the run, in a separate gloo group; used by one thread at a time."""

    rank: int = 0
    size: int = 1
    handle: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the leading process, which writes shared files."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Gather the JSON values of all processes, in rank order."""
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(canonical_json(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(own)]), group=self.handle)
        longest = max(int(size) for size in sizes)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(own)] = own
        dist.all_gather(texts, padded, group=self.handle)
        return [json.loads(text[: int(size)].numpy().tobytes()) for text, size in zip(texts, sizes, strict=True)]

    def broadcast(self, value: Any) -> Any:
        """Broadcast the JSON value of rank 0; other values are ignored."""
        return self.gather(value if self.leads else None)[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        total = torch.tensor([int(flag)])
        dist.all_reduce(total, op=dist.ReduceOp.MAX, group=self.handle)
        return bool(total.item())

    def barrier(self) -> None:
        """Barrier."""
        self.any(False)


class _Groups:
    """Groups of this process, created on first use; creation is collective."""

    @cached_property
    def control(self) -> Group:
        return _new_group(None)

    @cached_property
    def background(self) -> Group:
        return _new_group(BACKGROUND_TIMEOUT)

    def forget(self) -> None:
        self.__dict__.clear()


_groups = _Groups()


def _new_group(timeout: timedelta | None) -> Group:
    if not dist.is_initialized():
        return Group()
    handle = dist.new_group(backend="gloo", timeout=timeout)
    return Group(dist.get_rank(), dist.get_world_size(), handle)


def control() -> Group:
    """Group of the main thread."""
    return _groups.control


def background() -> Group:
    """Group of the checkpoint thread."""
    return _groups.background


def stop_everywhere(flag: bool) -> bool:
    """Whether a stop was requested in any process; collective, with the same result everywhere."""
    return control().any(flag)


def initialize(device_type: str, timeout: timedelta) -> Group:
    """Join the processes started by torchrun, with gloo on CPU and NCCL on CUDA; selects this process's GPU."""
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout)
    else:
        dist.init_process_group("gloo", timeout=timeout)
    _groups.forget()
    return control()


def finalize() -> None:
    """Leave the process group; a second call is a no-op."""
    _groups.forget()
    if dist.is_initialized():
        dist.destroy_process_group()
