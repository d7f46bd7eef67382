"""Measured seconds of the forward passes of attention in this process, to compare with what was predicted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from longcat.stages.train.parallel.control import control
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.sparse_balance.assignment import imbalance
from longcat.stages.train.sparse_balance.coverage import mixers_of


class AttentionClock:
    """Adds up the time between the beginning and the end of every mixer of `layers`."""

    def __init__(self, layers: Mapping[int, nn.Module], device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._began: Any = None
        for _, mixer in mixers_of(layers):
            mixer.register_forward_pre_hook(self._start)
            mixer.register_forward_hook(self._stop)

    def _start(self, *_: Any) -> None:
        self._began = self._now()

    def _stop(self, *_: Any) -> None:
        self._spans.append((self._began, self._now()))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> float:
        """Seconds since the last call."""
        spans, self._spans = self._spans, []
        if not self._cuda:
            return sum(end - began for began, end in spans)
        torch.cuda.synchronize()
        return sum(began.elapsed_time(end) for began, end in spans) / 1e3


def measured_imbalance(parallel: Parallel, seconds: float) -> float:
    """Longest time of a data group relative to their mean; collective."""
    totals = [0.0] * parallel.sizes.data
    for group, share in control().gather([parallel.data_rank, seconds]):
        totals[group] += share
    return imbalance(totals)
