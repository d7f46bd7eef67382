"""The answers of a batch: a JSONL file in the order of the input, continued after an interruption."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import machine_error

# Every record begins with this, so that the rest of a killed write is told from a file of something else.
BEGINNING = b'{"line": '
MAX_RECORD_BYTES = 64 << 20
HINT = "give the same input and options as before, or another --output"


def record(line: int, digest: str, fields: dict[str, Any]) -> bytes:
    """One line of the output."""
    return json.dumps({"line": line, "input": digest, **fields}, ensure_ascii=False).encode() + b"\n"


class BatchOutput:
    """The open output file. `finished` lines are there already, `failed` of them with an error."""

    def __init__(self, path: Path, stream: IO[bytes], expected: Iterator[tuple[int, str]]) -> None:
        """Compare the records of the file with the `expected` line numbers and digests, and drop an unfinished one.

        Raises:
            InputError: the file holds something else.
        """
        self._path = path
        self.finished = self.failed = 0
        end = 0
        for found in iter(lambda: stream.readline(MAX_RECORD_BYTES), b""):
            if not found.endswith(b"\n"):
                self._check_rest(found)
                break
            self._check(found, next(expected, None))
            end = stream.tell()
        stream.truncate(end)
        self._descriptor = stream.fileno()
        os.lseek(self._descriptor, end, os.SEEK_SET)

    def _check(self, found: bytes, wanted: tuple[int, str] | None) -> None:
        self.finished += 1
        try:
            fields = json.loads(found)
            key = (fields["line"], fields["input"])
            self.failed += "error" in fields
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._foreign("is no answer of this command") from None
        if key != wanted:
            raise self._foreign("answers another input, or other options")

    def _check_rest(self, found: bytes) -> None:
        if len(found) == MAX_RECORD_BYTES or not (found.startswith(BEGINNING) or BEGINNING.startswith(found)):
            self.finished += 1
            raise self._foreign("is no answer of this command")

    def _foreign(self, what: str) -> InputError:
        return InputError(f"line {self.finished} {what}", where=str(self._path), hint=HINT)

    def write(self, data: bytes) -> None:
        """Append one record.

        Raises:
            MachineError: the disk failed or is full.
        """
        # Without a buffer, which would be written again when the file is closed after an error.
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            raise machine_error(error, self._path) from None


@contextmanager
def open_output(path: Path, expected: Iterator[tuple[int, str]]) -> Iterator[BatchOutput]:
    """Open the output of a batch; see `BatchOutput`.

    Raises:
        InputError: it cannot be opened, another process writes it, or it holds something else.
    """
    try:
        # Appending would not let an unfinished record be dropped; "w" would lose the finished ones.
        stream = path.open("r+b" if path.exists() else "x+b")
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path)) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError("another process writes this file", where=str(path)) from None
        yield BatchOutput(path, stream, expected)
