"""Expert load over a run, in a bounded number of columns."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

# Maximum cells of all layers, one byte each, and minimum and maximum number of columns per run.
CELLS = 250_000
FEWEST, MOST = 24, 240
# A load is stored in 64ths of the mean load of an expert, up to four times it.
SCALE = 64


class LoadHistory:
    """Slots per expert, summed over intervals whose length doubles whenever there are too many of them."""

    def __init__(self, first: list[list[int]]) -> None:
        self.layers, self.experts = len(first), len(first[0])
        self.capacity = min(MOST, max(FEWEST, CELLS // (self.layers * self.experts))) // 2 * 2
        self._per_bin = 1
        self._bins: list[Any] = []
        self._in_last = 0
        self.ends: list[int] = []

    def add(self, step: int, load_LE: list[list[int]]) -> None:
        """Add the slot counts [L][E] of a step.

        Raises:
            ValueError: the shape is not that of the first step.
        """
        counts_LE = np.asarray(load_LE, dtype=np.float64)
        if counts_LE.shape != (self.layers, self.experts):
            raise ValueError(f"in 'expert_load': shape {counts_LE.shape}, {(self.layers, self.experts)} before")
        if self._in_last == self._per_bin or not self._bins:
            if len(self._bins) == self.capacity:
                self._halve()
            self._bins.append(counts_LE)
            self.ends.append(step)
            self._in_last = 1
            return
        self._bins[-1] = self._bins[-1] + counts_LE
        self.ends[-1] = step
        self._in_last += 1

    def _halve(self) -> None:
        self._bins = [a + b for a, b in zip(self._bins[::2], self._bins[1::2], strict=True)]
        self.ends = self.ends[1::2]
        self._per_bin *= 2

    def ratios(self) -> np.ndarray[Any, Any]:
        """Load relative to the mean of the layer's experts: [L, E, columns]."""
        counts_TLE = np.stack(self._bins)
        mean_TL1 = counts_TLE.mean(axis=2, keepdims=True)
        return (counts_TLE / np.where(mean_TL1 > 0, mean_TL1, 1)).transpose(1, 2, 0)

    def encoded(self) -> str:
        """`ratios` as bytes of 64ths, base64."""
        cells = np.clip(np.rint(self.ratios() * SCALE), 0, 255).astype(np.uint8)
        return base64.b64encode(cells.tobytes()).decode("ascii")
