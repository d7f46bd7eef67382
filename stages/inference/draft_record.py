"""When a sequence stops drafting."""

from __future__ import annotations

import math
from dataclasses import dataclass

# A sequence is judged after every step with drafts from this one on.
FIRST_JUDGED = 4


@dataclass
class DraftRecord:
    """Whether a sequence still drafts: it stops for good once drafting clearly does not pay.

    Clearly is two standard deviations of a fair coin below the price of the steps it drafted in.
    """

    active: bool = True
    _steps: int = 0
    _accepted: int = 0
    _worth: float = 0.0

    def count(self, accepted: int, worth: float) -> None:
        """Count one step with drafts of which `accepted` were chosen; `worth`: see `DraftPrice`."""
        self._steps += 1
        self._accepted += accepted
        self._worth += worth
        if self._steps >= FIRST_JUDGED:
            self.active = self._accepted + math.sqrt(self._steps) >= self._worth
