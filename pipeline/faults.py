"""Distinguishes machine faults from invalid data.

A failing disk, a full folder or a killed child says nothing about a record. Such a fault is retried once and then ends
the run with one line; a record is dropped only because of its own bytes.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from longcat.pipeline.errors import InputError, MachineError
from longcat.pipeline.retry import Retry

RETRY_SECONDS = 0.5
BUFFER_BYTES = 1 << 18

# Missing paths, permissions, refused connections: not worth a retry, and self-explanatory.
SETTLED = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.EROFS,
        errno.EPIPE,
    }
)
# Local resources that a connection can run out of.
SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EIO, errno.ENOSPC})
# Only these signals, and our own limits, can be caused by a child's input.
CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGSYS})

# Libraries written in Rust or C++ drop the error number but keep its text.
_RUST_NUMBER = re.compile(r"\(os error (\d+)\)")
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written|iostream error|unexpected pos \d+ vs \d+|failed writing file")
_TEXTS = {
    os.strerror(number): number
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)
}

GO_ON = "run again; finished shards are kept"
REMEDIES = {
    errno.ENOSPC: f"free some space and {GO_ON}",
    errno.EDQUOT: f"free some space and {GO_ON}",
    errno.EIO: f"check the disk (see `dmesg`) and {GO_ON}",
    errno.EMFILE: f"raise the limit of open files (`ulimit -n`) and {GO_ON}",
    errno.ENFILE: f"raise the limit of open files (`sysctl fs.file-max`) and {GO_ON}",
    errno.ENOMEM: f"use fewer --workers and {GO_ON}",
}
WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOMEM: "out of memory",
}

T = TypeVar("T")


def fault_number(error: BaseException) -> int | None:
    """Error number of a machine fault; None if the error may be caused by the data.

    Libraries raise an OSError without a number for invalid bytes.
    """
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    return error.errno if isinstance(error, OSError) else None


def number_in_text(error: BaseException) -> int | None:
    """Error number parsed from a library's message; for operations that can only fail at a file."""
    text = str(error)
    if (found := _RUST_NUMBER.search(text)) is not None:
        return int(found[1])
    if _SHORT_WRITE.search(text):
        return errno.ENOSPC
    return next((number for known, number in _TEXTS.items() if known in text), None)


def own_shortage(error: BaseException | None) -> OSError | None:
    """Local resource that ran out, from a network error and its causes; None if the remote side failed."""
    while error is not None:
        if isinstance(error, socket.gaierror):
            short = error.errno in (socket.EAI_MEMORY, socket.EAI_SYSTEM)
        else:
            short = isinstance(error, OSError) and error.errno in SHORTAGES
        if short and isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def is_fault(error: BaseException) -> bool:
    """Whether an error is a machine fault, independent of the data."""
    return fault_number(error) is not None


def writing_failed(error: BaseException) -> bool:
    """Whether a library's error while writing a file is a disk fault, not a wrong path."""
    number = error.errno if isinstance(error, OSError) else None
    return number not in SETTLED if number is not None else number_in_text(error) is not None


def machine_error(error: BaseException, where: object = None) -> MachineError:
    """One-line error for a fault: file, what failed, remedy."""
    number = fault_number(error) or number_in_text(error) or 0
    place = where if where is not None else getattr(error, "filename", None)
    what = WORDS.get(number) or (os.strerror(number) if number else str(error) or type(error).__name__)
    hint = REMEDIES.get(number, GO_ON)
    return MachineError(what, where=None if place is None else str(place), hint=hint)


def raise_fault(error: Exception, where: object) -> None:
    """Raise a one-line error for a machine fault; return if the error may be caused by the file's content."""
    number = fault_number(error)
    if number is None and not isinstance(error, ValueError | KeyError | TypeError):
        number = number_in_text(error)
    if number is not None and number not in SETTLED:
        raise machine_error(error, where) from None


@contextmanager
def told(where: object) -> Iterator[None]:
    """Convert machine faults inside into a one-line error that names `where`; other errors pass through.

    Raises:
        MachineError: the machine failed.
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        number = fault_number(error)
        if number is None or number in SETTLED:
            raise
        raise machine_error(error, where) from None


def twice(action: Callable[[], T]) -> T:
    """Return `action()`, retried once after a short wait on a machine fault."""
    return Retry(2, RETRY_SECONDS).call(action, _may_pass)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno is not None and error.errno not in SETTLED


class SteadyFile(io.RawIOBase):
    """Local file for reading; a failed read is retried once on a reopened file.

    Every failed read raises an error that names the file, so that a broken disk is never mistaken for end of file or
    damaged content.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises OSError if it is not a readable file."""
        super().__init__()
        self.name = str(path)
        self._path = path
        self._raw: io.FileIO | None = None
        self._version: tuple[int, ...] | None = None
        self._position = self._at = 0
        self._tried(self._open)

    @property
    def _size(self) -> int:
        """Size in bytes; 0 for files without a size."""
        return self._version[2] if self._version else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._open().fileno()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # Checked here: a bad offset from damaged content is not a machine fault.
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`.

        Raises:
            MachineError: it failed twice.
            InputError: the file was replaced meanwhile.
        """
        if self._size and self._position >= self._size:
            return 0
        count = self._tried(lambda: self._open().readinto(buffer)) or 0
        self._position += count
        self._at = self._position
        return count

    def close(self) -> None:
        self._drop()
        super().close()

    def _tried(self, action: Callable[[], T]) -> T:
        def attempt() -> T:
            try:
                return action()
            except OSError:
                self._drop()
                raise

        with told(self._path):
            return twice(attempt)

    def _open(self) -> io.FileIO:
        """The file, opened at the current position."""
        if self._raw is None:
            raw = self._path.open("rb", buffering=0)
            found = os.fstat(raw.fileno())
            version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
            if self._version not in (None, version):
                raw.close()
                raise InputError("the file changed while it was read", where=self.name, hint="run the command again")
            self._raw, self._version, self._at = raw, version, 0
        if self._at != self._position:
            self._raw.seek(self._position)
            self._at = self._position
        return self._raw

    def _drop(self) -> None:
        # Nothing was written, so a failed close loses no data.
        if self._raw is not None:
            with suppress(OSError):
                self._raw.close()
        self._raw = None


def open_input(path: Path) -> io.BufferedReader:
    """Open a local file (see `SteadyFile`) or a remote one, whose reader retries by itself."""
    if not isinstance(path, Path):
        return cast("io.BufferedReader", path.open("rb"))
    return io.BufferedReader(SteadyFile(path), BUFFER_BYTES)


def ending(status: int) -> str:
    """Describe a child's exit status: `it ended with exit code 1`, `it was killed by SIGKILL (out of memory?)`."""
    if status >= 0:
        return f"it ended with exit code {status}"
    name = signal.Signals(-status).name if -status in signal.Signals.__members__.values() else f"signal {-status}"
    return f"it was killed by {name}" + (" (out of memory?)" if -status == signal.SIGKILL else "")


def is_crash(status: int) -> bool:
    """Whether a child died from a signal that its input can cause."""
    return -status in CRASHES
