"""Python interface of the shim: compile it, load it first, arm it in a forked child."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
LIBRARY = "KILL_POINTS_LIBRARY"


class Call(IntFlag):
    """Classes of calls; see `shim.c`."""

    LOOK = 1
    CHANGE = 2
    SYNC = 4
    LOCK = 8
    ALL = 15


class At(IntEnum):
    """Action at the chosen call: nothing, exit before it, stop before it, or write half and exit."""

    NOTHING = 0
    KILL = 1
    STOP = 2
    TEAR = 3


@dataclass(frozen=True)
class Traced:
    """One call of a run: its class, name and path below the watched folder."""

    kind: Call
    name: str
    path: str

    def __str__(self) -> str:
        return f"{self.name} {self.path}"


class _Slot(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_long),
        ("blocked", ctypes.c_long),
        ("hit", ctypes.c_long),
        ("traced", ctypes.c_long),
        ("trace", ctypes.c_char * (1 << 22)),
    )


class Points:
    """One slot of the shim: the calls made so far by the process that armed it."""

    def __init__(self, index: int = 0) -> None:
        self._library = ctypes.CDLL(os.environ[LIBRARY])
        self._library.points_slot.restype = ctypes.POINTER(_Slot)
        self._index = index
        self._slot = self._library.points_slot(index).contents

    def clear(self) -> None:
        self._library.points_clear(self._index)

    def arm(
        self, root: Path, chosen: Call, at: At, number: int = -1, *, trace: bool = False, backwards: bool = False
    ) -> None:
        """Watch calls of this process below `root`; do `at` at the chosen call with this number, counted from 0.

        Folders are listed by name, or in reverse order with `backwards`.
        """
        folder, order = str(root).encode(), -1 if backwards else 1
        self._library.points_arm(self._index, folder, int(chosen), ctypes.c_long(number), int(at), int(trace), order)

    @property
    def count(self) -> int:
        return int(self._slot.count)

    @property
    def blocked(self) -> int:
        """Number of times that a lock was held by another process."""
        return int(self._slot.blocked)

    @property
    def hit(self) -> bool:
        return bool(self._slot.hit)

    def trace(self) -> list[Traced]:
        lines = self._slot.trace[: self._slot.traced].decode(errors="replace").splitlines()
        return [
            Traced(Call(int(kind)), name, path.strip()) for kind, name, path in (line.split(" ", 2) for line in lines)
        ]


def compiler() -> str | None:
    """Path of the C compiler, or None if it is missing or the system does not support the shim."""
    return shutil.which("cc") if sys.platform == "linux" else None


def start_again_with_shim(folder: Path) -> None:
    """Compile the shim into `folder` and replace this process by one that has it loaded; return in the new one."""
    if LIBRARY in os.environ:
        del os.environ["LD_PRELOAD"]  # child processes, such as git, run without it
        return
    library = folder / "kill_points.so"
    command = [compiler() or "cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    subprocess.run([*command, "-ldl"], check=True)
    environment = {**os.environ, LIBRARY: str(library), "LD_PRELOAD": str(library)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
