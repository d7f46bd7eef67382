"""What drafts must bring: the acceptance from which a step with drafts is faster than one without, by measurement.

The more sequences a step has, the more its time grows with every further row: the price is measured for several
numbers of sequences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from longcat.model.step import Piece
from longcat.stages.inference.runner import StepRunner

# Numbers of sequences that are measured; others have the price of the next greater one.
MEASURED = (1, 4, 16)
# Cost of proposing and verifying besides the model, as a part of a plain step.
BOOKKEEPING = 0.03
TIMED_CALLS = 5


class DraftPrice(NamedTuple):
    """`worth[i]`: mean number of accepted drafts per step from which drafting pays with `sequences[i]` sequences."""

    sequences: tuple[int, ...]
    worth: tuple[float, ...]

    def of(self, sequences: int) -> float:
        """The price in a step of this many sequences."""
        return next((worth for most, worth in zip(*self, strict=True) if sequences <= most), self.worth[-1])


def measure_price(
    runner: StepRunner, drafts: int, predict: Callable[[int], None] | None, most_sequences: int
) -> DraftPrice:
    """Time steps with and without `drafts` drafts per sequence; `predict(n)` makes one draft for n sequences, if that
    takes time. Overwrites pages, so before the first request.
    """
    per_sequence = -(-(1 + drafts) // runner.cache.page_size)
    most = max(1, min(most_sequences, runner.cache.pages // per_sequence))
    counts = tuple(dict.fromkeys(min(count, most) for count in MEASURED))
    return DraftPrice(counts, tuple(_worth(runner, drafts, predict, count, per_sequence) for count in counts))


def _worth(
    runner: StepRunner, drafts: int, predict: Callable[[int], None] | None, sequences: int, per_sequence: int
) -> float:
    def step(tokens: int) -> float:
        # Different tokens, which select different experts.
        pieces = [
            Piece(
                [(sequence * tokens + token) % runner.vocab_size for token in range(tokens)],
                0,
                range(sequence * per_sequence, (sequence + 1) * per_sequence),
                tokens,
                slot=sequence,
            )
            for sequence in range(sequences)
        ]
        return _fastest(lambda: runner.forward(pieces))

    making = 0.0 if predict is None else drafts * _fastest(lambda: predict(sequences))
    return max(0.0, (step(1 + drafts) + making) / step(1) - 1 + BOOKKEEPING)


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls."""
    best = math.inf
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        with torch.inference_mode():
            run()
        best = min(best, time.perf_counter() - start)
    return best
