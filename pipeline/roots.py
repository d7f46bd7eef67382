"""Temporary roots: ids that a live process makes, reads or has just published, which `gc` keeps.

Each process writes them to its own file and holds that file's lock until it exits, so that the kernel tracks which
files are valid. Writing takes the shared lock that `gc` holds exclusively while it decides and deletes: an artifact
announced before it is looked up cannot be collected.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longcat.pipeline.artifact import ID_PATTERN
from longcat.pipeline.lock import NO_WRITE, locked

MAX_BYTES = 64 << 20


_open: weakref.WeakSet[LiveRoots] = weakref.WeakSet()


def close_all() -> None:
    """Withdraw all announcements of this process in any store, at the end of a command."""
    for roots in list(_open):
        roots.close()


class LiveRoots:
    """Announcements of all processes that use a store."""

    def __init__(self, staging: Path) -> None:
        self.folder = staging / "live"
        self._gate = staging / "locks" / ".gc"
        self._descriptor: int | None = None
        self._release: Callable[[], object] = lambda: None
        self._announced: set[str] = set()
        self._mutex = threading.Lock()

    def announce(self, identifiers: Iterable[str]) -> None:
        """Keep `identifiers` from collection until this process ends; no effect on a read-only store."""
        with self._mutex:
            new = sorted(set(identifiers) - self._announced)
            if not new:
                return
            try:
                with locked(self._gate, shared=True):
                    self._append(new)
            except OSError as error:
                if error.errno not in NO_WRITE:
                    raise
                return
            self._announced.update(new)

    def _append(self, identifiers: list[str]) -> None:
        if self._descriptor is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{os.getpid()}-{secrets.token_hex(4)}"
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            _open.add(self)
            self._release = weakref.finalize(self, _take_back, path, self._descriptor, os.getpid())
        os.write(self._descriptor, "".join(f"{identifier}\n" for identifier in identifiers).encode())

    def close(self) -> None:
        """Withdraw the announcements."""
        with self._mutex:
            self._release()
            self._descriptor = None
            self._announced.clear()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Block announcements during a decision and deletion."""
        with locked(self._gate):
            yield

    def read(self, *, forget_dead: bool = False) -> set[str]:
        """Ids announced by live processes; files of dead ones may be deleted within `collecting`."""
        found: set[str] = set()
        for path in sorted(self.folder.glob("*")):
            with suppress(FileNotFoundError, PermissionError):
                found.update(_read(path, forget_dead))
        return found


def _read(path: Path, forget_dead: bool) -> Iterator[str]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if forget_dead:
            path.unlink()
    except BlockingIOError:
        lines = os.pread(descriptor, MAX_BYTES, 0).decode("ascii", "replace").split()
        yield from (line for line in lines if ID_PATTERN.fullmatch(line))
    finally:
        os.close(descriptor)


def _take_back(path: Path, descriptor: int, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child, whose parent is still running
        path.unlink(missing_ok=True)
    os.close(descriptor)
