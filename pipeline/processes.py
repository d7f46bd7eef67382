"""Environment of child processes: same code as the parent, no imports from the user's folder, exit with the parent.

`-P` and PYTHONSAFEPATH keep the current folder off the module path, so that a `model.py` there is never run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1


def import_root() -> Path:
    """Folder on the module path that contains the package `longcat`, links not resolved."""
    import longcat

    return Path(next(iter(longcat.__path__))).parent


def module_path() -> str:
    """PYTHONPATH for a child: the root of this code, then the caller's PYTHONPATH."""
    return os.pathsep.join([str(import_root()), *filter(None, [os.environ.get("PYTHONPATH")])])


def keep_children_safe() -> None:
    """Make every Python child of this process, from any library, ignore the current folder."""
    os.environ["PYTHONSAFEPATH"] = "1"


def safe_environment() -> dict[str, str]:
    """Environment variables with which Python children import the code of this process."""
    return {"PYTHONPATH": module_path(), "PYTHONSAFEPATH": "1"}


def safe_python() -> list[str]:
    """Command line prefix that runs this interpreter without the current folder on the module path."""
    return [sys.executable, "-P"]


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies; no effect except on Linux."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def descendants(pid: int, module: str | None = None) -> list[psutil.Process]:
    """Descendants of `pid`; with `module` only those that run it."""
    with suppress(psutil.Error):
        found = psutil.Process(pid).children(recursive=True)
        return [process for process in found if module is None or _runs(process, module)]
    return []


def _runs(process: psutil.Process, module: str) -> bool:
    with suppress(psutil.Error):
        return module in process.cmdline()
    return False


def kill_tree(pid: int) -> None:
    """SIGKILL a process and its descendants."""
    for process in [*descendants(pid), *_self(pid)]:
        with suppress(psutil.Error):
            process.kill()


def _self(pid: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [psutil.Process(pid)]
    return []
