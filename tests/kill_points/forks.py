"""Commands of longcat in forks of a process that has already imported everything."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

CRASHED = 99
POLL_SECONDS = 0.0005


@dataclass(frozen=True)
class Ended:
    """Result of a fork: exit code, or None if killed by a signal, and its output."""

    code: int | None
    text: str


class Fork:
    """A forked child that runs a function; stdout and stderr are captured."""

    def __init__(self, work: Callable[[], int], arm: Callable[[], None] = lambda: None) -> None:
        self._output = os.memfd_create("output")
        self._over = False
        self.pid = os.fork()
        if self.pid == 0:
            self._child(work, arm)

    def _child(self, work: Callable[[], int], arm: Callable[[], None]) -> None:
        code = CRASHED
        try:
            os.dup2(self._output, 1)
            os.dup2(self._output, 2)
            arm()
            code = work()
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> Ended:
        """Wait for its exit."""
        _, status = os.waitpid(self.pid, 0)
        return self._ended(status)

    def wait_or(self, condition: Callable[[], bool], seconds: float = 30) -> Ended | None:
        """Wait for its exit; return None once the condition holds.

        Raises:
            TimeoutError: neither happened.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return self._ended(status)
            if condition():
                return None
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"neither exited nor stopped: {self._text()}")

    def wait_until_stopped(self) -> Ended | None:
        """Return None once it has stopped itself, or its result if it exited before."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        return None if os.WIFSTOPPED(status) else self._ended(status)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill it, if it is still running."""
        if not self._over:
            os.kill(self.pid, signal.SIGKILL)
            self._ended(os.waitpid(self.pid, 0)[1])

    def _text(self) -> str:
        size = os.fstat(self._output).st_size
        return os.pread(self._output, size, 0).decode(errors="replace")

    def _ended(self, status: int) -> Ended:
        text = self._text()
        os.close(self._output)
        self._over = True
        return Ended(os.WEXITSTATUS(status) if os.WIFEXITED(status) else None, text)
