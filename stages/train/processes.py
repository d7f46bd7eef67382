"""Child processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

import psutil

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies; Linux only, elsewhere nothing happens."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def descendants(pid: int, module: str | None = None) -> list[psutil.Process]:
    """The processes below `pid`; with `module` only those that run it."""
    with suppress(psutil.Error):
        found = psutil.Process(pid).children(recursive=True)
        return [process for process in found if module is None or _runs(process, module)]
    return []


def _runs(process: psutil.Process, module: str) -> bool:
    with suppress(psutil.Error):
        return module in process.cmdline()
    return False


def kill_tree(pid: int) -> None:
    """SIGKILL a process and all below it."""
    for process in [*descendants(pid), *_self(pid)]:
        with suppress(psutil.Error):
            process.kill()


def _self(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [psutil.Process(pid)]
    return []
