"""SIGINT and SIGTERM: a clean stop, at once or at the next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from longcat.pipeline.errors import InterruptedRunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Turns SIGINT and SIGTERM into `InterruptedRunError`.

    It is raised where the main thread stands, which atomic writes make safe; inside `deferred()` the first signal
    is only noted, so that a trainer can save, and a second one is raised at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = 0

    def check(self) -> None:
        """Raise if a stop was asked for.

        Raises:
            InterruptedRunError: a signal arrived before.
        """
        if self.requested:
            raise InterruptedRunError("interrupted", hint="run the same command again to go on from here")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note the first signal instead of raising; the caller calls `check` where it is safe."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals for the duration; a no-op outside the main thread, where Python forbids it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[signal.Signals, Any] = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again or not self._deferred:
            self.check()
