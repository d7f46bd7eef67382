"""Size-limited reading and atomic writing of files."""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_DIGITS = 400
# Format of OS error numbers in safetensors and torch messages.
_RUST_NUMBER, _TORCH_NUMBER = re.compile(r"\(os error (\d{1,3})\)\s*$"), re.compile(r" \((\d{1,3})\)\s*$")


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        ValueError: the file is larger.
    """
    with named(path), path.open("rb") as file:
        # Reading allocates what it is asked for, so the limit alone would ask for too much.
        content = file.read(min(limit, path.stat().st_size) + 1)
    if len(content) > limit:
        raise ValueError(f"larger than the limit of {limit} bytes")
    return content


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Add the file name to an OSError that lacks it, such as from reads."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def fault_of(error: Exception, path: Path) -> OSError | None:
    """OSError, with its number, parsed from a library's message about `path`.

    None if there is none, or if the file does not exist.
    """
    numbers = _TORCH_NUMBER if isinstance(error, RuntimeError) else _RUST_NUMBER
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := numbers.search(str(error))) is not None:
        number = int(found[1])
    if number is None and isinstance(error, OSError):
        number = _why_not_opened(path)
    return None if number in (None, errno.ENOENT) else OSError(number, os.strerror(number), str(path))


def _why_not_opened(path: Path) -> int:
    # safetensors reports "No such file" for any failure to open a file.
    try:
        path.open("rb").close()
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EIO


def parse_json(data: bytes) -> Any:
    """Parse JSON text: no NaN or infinity, no duplicate keys, bounded nesting and digits.

    Raises:
        ValueError: the text is invalid.
    """
    try:
        return json.loads(data, object_pairs_hook=_mapping, parse_constant=_refuse_constant, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is synced and renamed to `path`, on failure removed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def default_mode(path: Path) -> Iterator[None]:
    """Give the file written to `path` in the block the mode of any new file (0o666 less the umask).

    For libraries that write through a private temporary file: safetensors makes files that only their owner can read.
    """
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    yield
    path.chmod(mode)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
