"""Choice of the form of every matrix by a short measurement on this machine.

Names: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from longcat.kernels.packed_linear import PackedMatrix, missing, pack

# Numbers of rows that count: one client, and a small batch. An expert gets few of the rows of a batch.
ROWS, EXPERT_ROWS = (1, 8), (1, 2)
CALLS, SECONDS = 60, 0.05  # at most, of each number of rows
# Copies that take turns, so that a small matrix does not stay in the first caches, as it would not in a model.
COPIES_BYTES, MAX_COPIES = 32 << 20, 8
PLAIN, BLOCKED, BOTH = EXACT = ("plain", "fp32", "both")
# A smaller form that was asked for may be this much slower; `both`, which takes twice the memory, must be this much
# faster. Sum of the times of all rows, each as a multiple of the fastest form's.
TOLERANCE, GAIN = 1.25, 1.1


@dataclass(frozen=True)
class Choice:
    """Form of a matrix, the reason, and microseconds of every form that was measured, by the numbers of `rows`."""

    form: str
    reason: str
    rows: tuple[int, ...]
    microseconds: Mapping[str, tuple[float, ...]]


@dataclass
class Chooser:
    """Chooses once per shape, wanted form and numbers of rows; `measure` can be replaced in tests."""

    found: dict[tuple[int, int, str, tuple[int, ...]], Choice] = field(default_factory=dict)

    def choose(self, outputs: int, inputs: int, wanted: str, rows: tuple[int, ...] = ROWS) -> Choice:
        """Form for a matrix [O, I]: `wanted` unless it is slower here, else the fastest exact one."""
        key = (outputs, inputs, wanted, rows)
        if key not in self.found:
            self.found[key] = self._choose(*key)
        return self.found[key]

    def _choose(self, outputs: int, inputs: int, wanted: str, rows: tuple[int, ...]) -> Choice:
        candidates = [form for form in dict.fromkeys((PLAIN, BLOCKED, wanted)) if missing(form) is None]
        measured = {form: self.measure(outputs, inputs, form, rows) for form in candidates}
        if BLOCKED in measured:
            measured[BOTH] = (measured[PLAIN][0], *measured[BLOCKED][1:])
        losses = _losses(measured)
        exact = min((form for form in (PLAIN, BLOCKED) if form in measured), key=losses.__getitem__)
        if BOTH in losses and losses[BOTH] * GAIN < losses[exact]:
            exact = BOTH
        if wanted in EXACT:
            return Choice(exact, "the fastest", rows, measured)
        if losses[wanted] <= TOLERANCE * losses[exact]:
            return Choice(wanted, "as asked", rows, measured)
        return Choice(exact, f"{wanted} is slower here", rows, measured)

    def measure(self, outputs: int, inputs: int, form: str, rows: tuple[int, ...]) -> tuple[float, ...]:
        """Least microseconds of a product with each number of rows."""
        copies = max(1, min(MAX_COPIES, COPIES_BYTES // (4 * outputs * inputs)))
        matrices = [pack(torch.randn(outputs, inputs), form) for _ in range(copies)]
        return tuple(_least(matrices, torch.randn(count, inputs)) for count in rows)


class AsAsked(Chooser):
    """Chooses the wanted form without a measurement, so that results do not depend on the machine's load."""

    def _choose(self, outputs: int, inputs: int, wanted: str, rows: tuple[int, ...]) -> Choice:
        reason = missing(wanted)
        if reason is not None:
            return Choice(PLAIN, f"no {wanted} here: {reason}", rows, {})
        return Choice(wanted, "as asked", rows, {})


def _losses(measured: Mapping[str, tuple[float, ...]]) -> dict[str, float]:
    best = [min(times) for times in zip(*measured.values(), strict=True)]
    return {form: sum(own / least for own, least in zip(times, best, strict=True)) for form, times in measured.items()}


def _least(matrices: Sequence[PackedMatrix], x_NI: torch.Tensor) -> float:
    """Least microseconds of a call: other processes can only add to it."""
    for matrix in matrices:
        matrix(x_NI)
    least, ends = float("inf"), time.perf_counter() + SECONDS
    for call in range(CALLS):
        started = time.perf_counter()
        matrices[call % len(matrices)](x_NI)
        stopped = time.perf_counter()
        least = min(least, stopped - started)
        if stopped > ends:
            break
    return round(least * 1e6, 1)
