"""Handling of SIGINT and SIGTERM: clean stop, at once or at the next safe point."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from longcat.pipeline.errors import InterruptedRunError

AGAIN_SECONDS = 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Turns SIGINT and SIGTERM into `InterruptedRunError`.

    Raised in the main thread at its current position, which is safe because writes are atomic. Inside `deferred()` the
    first signal is only recorded, so that a trainer can save; a second one is raised at once. Code that keeps progress
    adds the hint about resuming.
    """

    def __init__(self) -> None:
        self.requested = False
        self.received: signal.Signals | None = None
        self._deferred = 0
        self._noted = 0

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            InterruptedRunError: a signal arrived earlier.
        """
        if self.requested:
            raise InterruptedRunError("interrupted")

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Record the first signal instead of raising; the caller calls `check` where it is safe."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Context in which Ctrl-C ends the current operation, not the program.

        The first SIGINT only sets `requested`, a second one raises; SIGTERM always raises. A SIGINT is cleared on exit.
        """
        self._noted += 1
        try:
            yield
        finally:
            self._noted -= 1
            self.forget_interrupt()

    def forget_interrupt(self) -> bool:
        """Clear a handled Ctrl-C, so that the next one counts as the first; False if none, or SIGTERM, arrived."""
        if self.received is not signal.SIGINT:
            return False
        self.requested, self.received = False, None
        return True

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle the signals for the duration; a no-op outside the main thread, where Python forbids it."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before: dict[signal.Signals, Any] = {number: signal.signal(number, self._handle) for number in SIGNALS}
        hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        try:
            yield self
        finally:
            sys.unraisablehook = hook
            for number, handler in before.items():
                signal.signal(number, handler)

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """Where Python cannot raise, for example in a destructor, send the signal again a moment later."""
        if not issubclass(lost.exc_type, InterruptedRunError) or self.received is None:
            sys.__unraisablehook__(lost)
            return
        again = threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), self.received))
        again.daemon = True
        again.start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested, self.received = self.requested, True, signal.Signals(number)
        waits = self._deferred or (self._noted and number == signal.SIGINT)
        if again or not waits:
            self.check()
