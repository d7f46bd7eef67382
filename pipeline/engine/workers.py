"""Start and end of pool processes: they exit silently with their parent, at whatever moment it exits."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import popen_spawn_posix, resource_tracker, spawn
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from longcat.pipeline.processes import end_with_parent

# Part of the command line of every worker.
MARK = "longcat-worker"

# Code that a worker runs before multiprocessing; it cannot import our code, since the module path is set later. A start
# that fails because the parent has exited or closed shared resources is not reported.
_START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != {parent}:
    os._exit(1)
def told(kind, error, trace):
    if not issubclass(kind, (EOFError, OSError)) and os.getppid() == {parent}:
        sys.__excepthook__(kind, error, trace)
sys.excepthook = told
{command}
"""

_starting = threading.Lock()


class _Popen(popen_spawn_posix.Popen):
    def _launch(self, process_obj: Any) -> None:
        # The mask is inherited: a Ctrl-C, sent to the whole terminal group, is held until the worker ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with _started_our_way():
                super()._launch(process_obj)  # type: ignore[misc]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _started_our_way() -> Iterator[None]:
    """Context in which multiprocessing starts Python with the code above."""
    plain = spawn.get_command_line

    def command_line(**values: Any) -> list[str]:
        *options, code, fork = plain(**values)
        return [*options, _START.format(parent=os.getpid(), command=code), fork, MARK]

    with _starting:
        spawn.get_command_line = command_line
        try:
            yield
        finally:
            spawn.get_command_line = plain


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Popen:  # noqa: N802 - the name that multiprocessing calls
        return _Popen(process_obj)


class WorkerContext(SpawnContext):
    """Start method `spawn` for workers that start and end silently.

    Spawned, not forked: a forked child of a process that has run torch or Arrow threads can deadlock.
    """

    Process = _Process

    def __init__(self) -> None:
        super().__init__()
        _start_tracker()


def _start_tracker() -> None:
    """Start the resource tracker; leftovers of a signal are not reported."""
    sys.warnoptions.append("ignore:resource_tracker")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove("ignore:resource_tracker")


def begin(parent: int) -> None:
    """Initializer of a worker."""
    sys.excepthook = sys.__excepthook__
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    end_with_parent()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """On kernels without a parent-death signal, detect within a second that the parent has exited."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
