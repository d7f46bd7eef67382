"""Digests of files outside the store, which enter an artifact's id.

Digests are cached with the stamp of the file (size, times, inode), so that checking for changes reads only modified
files.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from longcat.pipeline.errors import InputError
from longcat.pipeline.files import canonical_json, sha256_file

if TYPE_CHECKING:
    from longcat.pipeline.remote import RemoteFile

Stamp = tuple[int, int, int, int]

# A file modified more recently may change again within one tick of the file system's clock, undetected.
SETTLED_NS = 2_000_000_000

_known: dict[str, tuple[Stamp, str]] = {}
_stamps: dict[str, str] = {}


def fingerprint_paths(paths: Iterable[str | Path | RemoteFile]) -> dict[str, str]:
    """SHA-256 of each given file, or of names and contents below each given folder, keyed by the given path.

    Links inside a folder are not followed, and a store below it is skipped. The location of a folder does not enter its
    digest. Remote files are not read: the digest covers URL, size and version (ETag, generation or modification date).

    Raises:
        InputError: a path is missing, cannot be read, or is a store.
    """
    return {str(path): _fingerprint(path) for path in paths}


def stamps_of(sources: Mapping[str, str]) -> dict[str, str]:
    """For each source, a stamp that changes if a file was modified, even to the same content."""
    return {name: _stamps[name] for name in sources if name in _stamps}


def check_unchanged(planned: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Compare the digests of the plan with the current ones.

    Raises:
        InputError: a source was changed, removed or added; names it.
    """
    for name in [*planned, *(name for name in now if name not in planned)]:
        if planned.get(name) != now.get(name):
            raise InputError(
                "changed during use: the plan was made for other content",
                where=name,
                hint="run again, the new content has another id",
            )


def _fingerprint(given: str | Path | RemoteFile) -> str:
    if not isinstance(given, (str, Path)):
        return hashlib.sha256(canonical_json([given.url, given.size, given.version])).hexdigest()
    path = Path(given).expanduser()
    try:
        if path.is_dir():
            return _fingerprint_folder(str(given), path)
        digest, stamp = _digest(path)
    except FileNotFoundError:
        raise InputError("no such file or folder", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(error.filename or path)) from None
    _stamps[str(given)] = _text(stamp)
    return digest


def _fingerprint_folder(given: str, folder: Path) -> str:
    if is_store(folder):
        raise InputError("is a store", where=str(folder), hint="name an artifact in it instead")
    digest, stamps = hashlib.sha256(), hashlib.sha256()
    for path in plain_files(folder):
        content, stamp = _digest(path)
        name = os.fsencode(path.relative_to(folder).as_posix())
        digest.update(name + f"\0{content}\n".encode())
        stamps.update(name + f"\0{_text(stamp)}\n".encode())
    _stamps[given] = stamps.hexdigest()
    return digest.hexdigest()


def _digest(path: Path) -> tuple[str, Stamp]:
    """A file's SHA-256 and stamp; not read again if the stamp is cached."""
    stamp, key = _stamp(path), str(path.absolute())
    known = _known.get(key)
    if known is not None and known[0] == stamp:
        return known[1], stamp
    digest = sha256_file(path)
    after = _stamp(path)
    if after == stamp and time.time_ns() - max(stamp[1], stamp[2]) > SETTLED_NS:
        _known[key] = (stamp, digest)
    return digest, after


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _text(stamp: Stamp) -> str:
    return "-".join(map(str, stamp))


def is_store(folder: Path) -> bool:
    """Whether a folder is a store that is not empty."""
    return (folder / ".staging" / "locks").is_dir()


def plain_files(folder: Path) -> Iterator[Path]:
    """Every plain file below `folder`, sorted by path; links are not followed, and stores are skipped."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if not is_store(path):
                yield from plain_files(path)
        elif entry.is_file(follow_symlinks=False):
            yield path
