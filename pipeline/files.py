"""Atomic writes, canonical JSON and file hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from longcat.pipeline.errors import Told
from longcat.pipeline.faults import machine_error, open_input, writing_failed
from longcat.pipeline.json_text import parse_json

MAX_JSON_BYTES = 256 << 20
LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_written: ContextVar[list[Path] | None] = ContextVar("written", default=None)


@contextmanager
def written_files() -> Iterator[list[Path]]:
    """Collect the paths that `atomic_path` publishes within the block, in order."""
    found: list[Path] = []
    token = _written.set(found)
    try:
        yield found
    finally:
        _written.reset(token)


def fsync_folder(folder: Path) -> None:
    """Make a rename or a creation inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is fsynced and renamed to `path`, on failure removed.

    Raises:
        MachineError: the disk failed or is full, as an OSError or a library's error; names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield aside
        fsync_file(aside)
        aside.replace(path)
        fsync_folder(path.parent)
        if (written := _written.get()) is not None:
            written.append(path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink()
        if not isinstance(error, Told) and writing_failed(error) and _is_of(error, aside):
            raise machine_error(error, path) from None
        raise


def _is_of(error: BaseException, path: Path) -> bool:
    """Whether an error does not name a file other than `path`."""
    return getattr(error, "filename", None) in (None, str(path))


def atomic_write(path: Path, data: bytes) -> None:
    """Atomically write `data` to `path`."""
    with atomic_path(path) as aside:
        aside.write_bytes(data)


def remove_tree(folder: Path) -> None:
    """Delete a folder after renaming it to a temporary name, so that a kill leaves no partial folder."""
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    with suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def is_temporary(path: Path) -> bool:
    """Whether `path` is a leftover of an interrupted `atomic_path`."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in bounded chunks.

    Raises:
        MachineError: the file could not be read, twice.
    """
    with open_input(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Canonical JSON text of a value: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: a float is NaN or infinite.
        TypeError: a value has no JSON form.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return _utf8(text)


def pretty_json(value: Any) -> bytes:
    """Indented JSON: keys in the order given, one newline at the end."""
    return _utf8(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _utf8(text: str) -> bytes:
    """JSON in UTF-8; bytes of file names that are not UTF-8 (`surrogateescape`) become JSON escapes."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return LONE_SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode()


def read_json(path: Path, *, file_names: bool = False) -> Any:
    """Parse a JSON file of bounded size, as strictly as `parse_json`.

    `file_names`: allow names of files that are not UTF-8, as written by `canonical_json` and `pretty_json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, too large, or not JSON.
        MachineError: it could not be read, twice.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > MAX_JSON_BYTES:
        raise ValueError(f"{status.st_size} bytes of JSON, the limit is {MAX_JSON_BYTES}")
    with open_input(path) as stream:
        # Not the limit: reading allocates what it is asked for.
        return parse_json(stream.read(status.st_size), file_names=file_names)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file; a line truncated by a crash is skipped."""
    with path.open("rb") as stream:
        while line := stream.readline(MAX_JSON_BYTES):
            try:
                record = parse_json(line, file_names=True)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one line to a log; a crash can lose this line but not earlier ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        stream.write(canonical_json(record) + b"\n")


def walk(folder: Path) -> Iterator[Path]:
    """Everything below `folder`, sorted, links not followed; entries that vanish meanwhile are skipped."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        yield folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(folder / entry.name)


def folder_bytes(folder: Path) -> int:
    """Total size in bytes of all files below `folder`, without links."""
    total = 0
    if folder.is_symlink():
        return total
    for path in walk(folder):
        with suppress(FileNotFoundError):
            found = path.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total
