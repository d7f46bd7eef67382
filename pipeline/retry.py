"""Retries with pauses, for transient failures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """Up to `tries` calls of an action, with a pause of `seconds` after the first, each next one `growth` times it."""

    tries: int
    seconds: float
    growth: float = 1.0

    def call(self, action: Callable[[], T], may_pass: Callable[[Exception], bool]) -> T:
        """Return `action()`; raises its error if it is not transient, or after the last try."""
        pause = self.seconds
        for _ in range(self.tries - 1):
            try:
                return action()
            except Exception as error:
                if not may_pass(error):
                    raise
            time.sleep(pause)
            pause *= self.growth
        return action()
