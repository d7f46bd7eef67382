"""What to do when the reader of stdout goes away, as in `longcat artifacts list | head -1`: end without a word."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell shows for a program that the signal ended


def stdout_closed() -> bool:
    """Whether stdout is a pipe that nobody reads any more, or one that was replaced by the null device for that."""
    try:
        descriptor = sys.stdout.fileno()
        if Path(os.devnull).samefile(f"/dev/fd/{descriptor}"):
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False


def drop_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not complain of it at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
