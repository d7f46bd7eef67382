"""Learning rate (and controller gain) as a pure function of the schedule position."""

from __future__ import annotations

import math
from dataclasses import dataclass

from longcat.stages.train.config import ScheduleOptions

MAX_DEFAULT_WARMUP = 2000
DEFAULT_WARMUP_FRACTION = 0.05


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `start` to `peak`, then one of three shapes down to `minimum_ratio * peak`.

    Positions count optimizer steps from 0; the value at a position is used by the step that starts there. From
    `total_steps` on the last value is kept.
    """

    kind: str
    peak: float
    warmup_steps: int
    decay_steps: int
    total_steps: int
    minimum_ratio: float
    start: float = 0.0

    @classmethod
    def of(cls, options: ScheduleOptions, peak: float, last_position: int, start: float = 0.0) -> Schedule:
        """Schedule of a run that ends at `last_position`, unless the options define a longer one."""
        total = options.total_steps or last_position
        warmup = options.warmup_steps
        if warmup is None:
            warmup = min(MAX_DEFAULT_WARMUP, math.ceil(DEFAULT_WARMUP_FRACTION * total))
        decay = round(options.decay_fraction * total)
        return cls(options.kind, peak, warmup, decay, total, options.minimum_ratio, start)

    def learning_rate(self, position: int) -> float:
        if position < self.warmup_steps:
            left = self.warmup_steps - (position + 1)
            return (self.peak * (position + 1) + self.start * left) / self.warmup_steps
        return self.peak * self._ratio(position)

    def peak_within(self, first: int, steps: int) -> float:
        """Highest learning rate of `steps` steps from position `first`: after the warm-up it never rises."""
        last = first + steps - 1
        turns = (min(max(first, turn), last) for turn in (self.warmup_steps - 1, self.warmup_steps))
        return max(self.learning_rate(position) for position in (first, *turns))

    def progress(self, position: int) -> float:
        """Fraction of the whole schedule before `position`, from 0 to 1."""
        return min(1.0, position / self.total_steps)

    def _ratio(self, position: int) -> float:
        done = position + 1
        if self.kind == "constant":
            return 1.0
        if self.kind == "cosine":
            fraction = _clamp(done - self.warmup_steps, self.total_steps - self.warmup_steps)
            return self.minimum_ratio + (1 - self.minimum_ratio) * 0.5 * (1 + math.cos(math.pi * fraction))
        fraction = _clamp(done - (self.total_steps - self.decay_steps), self.decay_steps)
        return 1 - (1 - self.minimum_ratio) * fraction


def _clamp(done: int, span: int) -> float:
    """Fraction of `span` done, from 0 to 1; 0 for an empty span."""
    return min(1.0, max(0, done) / span) if span > 0 else 0.0
