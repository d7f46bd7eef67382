"""Copies of blocks to the fast tier beside the computation: a thread, or a stream of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import torch

Copy = Callable[[], None]


class Copier(Protocol):
    """Runs copies in order; `wait` returns when the computation that follows it sees them."""

    def submit(self, copy: Copy) -> Callable[[], None]:
        """Start a copy; returns its `wait`."""


class OnDemand:
    """Copies when it is waited for."""

    def submit(self, copy: Copy) -> Callable[[], None]:
        return copy


class OnThread:
    """Copies on one thread, which ends with its owner."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="offload")

    def submit(self, copy: Copy) -> Callable[[], None]:
        future: Future[None] = self._pool.submit(_run, copy)
        return future.result


class OnStream:
    """Copies on a stream of a GPU, after what was computed before them."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def submit(self, copy: Copy) -> Callable[[], None]:
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            copy()
        done = self._stream.record_event()
        return lambda: torch.cuda.current_stream(self._device).wait_event(done)


def make_copier(mode: str, device: torch.device) -> Copier:
    """The copier of a cache on `device`; one serves all attention slots."""
    if mode == "sync":
        return OnDemand()
    return OnThread() if device.type == "cpu" else OnStream(device)


@torch.inference_mode()
def _run(copy: Copy) -> None:
    copy()
