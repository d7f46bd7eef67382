"""What an offloaded cache did since it was made."""

from __future__ import annotations

from dataclasses import dataclass

from longcat.model.attention.offload.resident import Fetched


@dataclass
class OffloadStats:
    """Counts over all attention slots.

    tokens: tokens with a choice of blocks. chosen, missing: blocks that they chose for the next token, and those of
    them that were not in the fast tier. moved_bytes: copied to the fast tier. mass, measured: sum of the measured
    recalls of attention mass, and their number.
    """

    tokens: int = 0
    chosen: int = 0
    missing: int = 0
    moved_bytes: int = 0
    mass: float = 0.0
    measured: int = 0

    def choose(self, fetched: Fetched) -> None:
        """Count the choice of one token."""
        self.tokens += 1
        self.chosen += fetched.asked
        self.missing += fetched.missing
        self.moved_bytes += fetched.nbytes

    def measure(self, mass: float) -> None:
        """Count a measured recall."""
        self.mass += mass
        self.measured += 1

    @property
    def hit_rate(self) -> float | None:
        """Part of the chosen blocks that were in the fast tier; None before the first choice."""
        return 1 - self.missing / self.chosen if self.chosen else None

    @property
    def recall(self) -> float | None:
        """Mean recall of attention mass over heads, slots and measured positions; None if none was measured."""
        return self.mass / self.measured if self.measured else None
