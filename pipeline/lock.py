"""Advisory file locks that the kernel releases when their holder dies."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longcat.pipeline.errors import BusyError

POLL_SECONDS = 0.2
# Errors of read-only places: another user's file, a store mounted read-only.
NO_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


def open_lock(path: Path) -> int:
    """Open a descriptor to lock `path`, creating the file if missing; read-only if it belongs to another user.

    Raises:
        OSError: it cannot be created, or cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The umask decides who may share it, as for every other file of the store.
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in NO_WRITE:
            raise
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise error from None


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: bool = True, on_wait: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Hold a lock on `path`, an exclusive one unless `shared`.

    `on_wait` is called once with the holder's process id (as text, perhaps empty) when the lock is held by another
    process.

    Raises:
        BusyError: `wait` is false and another process holds it.
    """
    descriptor = open_lock(path)
    try:
        _acquire(descriptor, path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait, on_wait)
        if not shared:
            with suppress(OSError):  # opened for reading only
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, how: int, wait: bool, on_wait: Callable[[str], None] | None) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace")
            if not wait:
                raise BusyError(
                    f"process {holder} is working on it", where=path.stem, hint="wait for it, or end it"
                ) from None
            if on_wait is None:
                # Wait in the kernel's queue, so that frequent lockers cannot starve others; signals end the wait.
                fcntl.flock(descriptor, how)
                return
            if not told:
                on_wait(holder)
            told = True
            time.sleep(POLL_SECONDS)


def is_locked(path: Path) -> bool:
    """Whether a process currently holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
