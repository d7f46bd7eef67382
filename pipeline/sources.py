"""Digests of files outside the store, so that an artifact's id follows what it was made from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from longcat.pipeline.errors import InputError
from longcat.pipeline.files import canonical_json, sha256_file, walk

if TYPE_CHECKING:
    from longcat.pipeline.remote import RemoteFile


def fingerprint_paths(paths: Iterable[str | Path | RemoteFile]) -> dict[str, str]:
    """sha256 of each given file, or of the names and contents below each given folder, keyed by the path as given.

    Links inside a folder are not followed. The position of a folder on the machine does not enter its digest. Of a
    remote file the content is not read: its URL, size and version (ETag, generation or date of change) stand for it.

    Raises:
        InputError: a path is missing or cannot be read.
    """
    return {str(path): _fingerprint(path) for path in paths}


def _fingerprint(given: str | Path | RemoteFile) -> str:
    if not isinstance(given, (str, Path)):
        return hashlib.sha256(canonical_json([given.url, given.size, given.version])).hexdigest()
    path = Path(given).expanduser()
    try:
        if path.is_dir():
            return _fingerprint_folder(path)
        return sha256_file(path)
    except FileNotFoundError:
        raise InputError("no such file or folder", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(error.filename or path)) from None


def _fingerprint_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in plain_files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def plain_files(folder: Path) -> Iterator[Path]:
    """Every plain file below `folder`, sorted by path; links are not followed."""
    for path in walk(folder):
        if path.is_file() and not path.is_symlink():
            yield path
