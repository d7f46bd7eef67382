"""Reading of the files of a tokenizer folder, which may come from anywhere."""

from __future__ import annotations

from pathlib import Path

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import open_input


def read_file(path: Path, limit: int) -> bytes:
    """Content of a file of at most `limit` bytes.

    Raises:
        InputError: it is missing, not a regular file, or larger.
    """
    if not path.is_file():
        if path.exists():
            raise InputError("is not a regular file", where=str(path))
        hint = "expected a tokenizer, tokens or checkpoint artifact"
        raise InputError("the file is missing", where=str(path), hint=hint)
    with open_input(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path.stat().st_size} bytes, the limit is {limit}", where=str(path))
    return data
