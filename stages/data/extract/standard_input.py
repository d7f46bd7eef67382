"""Standard input as an input file: copied to disk once, because workers and a second reading need a file."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from longcat.pipeline.errors import UsageError

NAME = "-"


@cache
def copied() -> Path:
    """A file with all of standard input, deleted when the process ends.

    Raises:
        UsageError: standard input is a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("standard input is a terminal", hint="pipe a file into the command: zcat x.gz | longcat ...")
    folder = Path(tempfile.mkdtemp(prefix="longcat-stdin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "stdin"
    with path.open("wb") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy, 1 << 20)
    return path
