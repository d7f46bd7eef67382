"""The command in a child process, behind a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

SECONDS = 60.0


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal of so many columns."""

    def __init__(self, arguments: Sequence[str], columns: int, code: str | None) -> None:
        self.parent, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        dropped = ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE")
        given = {name: value for name, value in os.environ.items() if name not in dropped}
        start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "longcat.cli"]
        self.process = subprocess.Popen(
            [*start, *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509  the test's process starts no threads that could hold a lock
            env={**given, "TERM": "xterm-256color", "NO_COLOR": "1"},
        )
        os.close(child)
        self.shown = ""

    def read(self, seconds: float = 0.2) -> bool:
        """Take what has come; false once the command has closed the terminal."""
        if not select.select([self.parent], [], [], seconds)[0]:
            return True
        try:
            got = os.read(self.parent, 1 << 16)
        except OSError:  # the child is gone
            return False
        self.shown += got.decode("utf-8", "replace")
        return bool(got)

    def wait_for(self, text: str, *, after: int = 0) -> int:
        """Read until `text` has been shown at or after a place; returns the place behind it."""
        deadline = time.monotonic() + SECONDS
        while text not in self.shown[after:]:
            assert time.monotonic() < deadline, f"{text!r} never came: {self.shown[after:]!r}"
            assert self.read() or text in self.shown[after:], f"it ended before {text!r}: {self.shown!r}"
        return self.shown.index(text, after) + len(text)

    def send(self, text: str) -> None:
        """Type; `\\x03` is Ctrl-C."""
        os.write(self.parent, text.encode())

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + SECONDS
        while self.read() and time.monotonic() < deadline:
            pass
        return self.process.wait(timeout=SECONDS)

    @property
    def text(self) -> str:
        """What was shown, without the styles."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self.shown.replace("\r\n", "\n"))

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        with suppress(OSError):
            os.close(self.parent)


def _take_terminal() -> None:
    # Only the terminal that a session calls its own turns Ctrl-C into a signal.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


StartTerminal = Callable[..., Terminal]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[StartTerminal]:
    """Start `longcat ARGUMENTS...` (or Python code) on a terminal 100 columns wide; it ends with the test."""
    started: list[Terminal] = []

    def start(*arguments: str, columns: int = 100, code: str | None = None) -> Terminal:
        started.append(Terminal(arguments, columns, code))
        return started[-1]

    yield start
    for one in started:
        one.close()
