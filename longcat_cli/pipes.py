"""Handling of a closed stdout, as in `longcat artifacts list | head -1`: exit silently."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

BROKEN_PIPE = 141  # 128 + SIGPIPE, the exit status of a program killed by that signal


def stdout_closed() -> bool:
    """Whether stdout is a pipe without a reader, or was replaced by the null device for that reason."""
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
    """Discard buffered output, so that the interpreter does not report an error at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
