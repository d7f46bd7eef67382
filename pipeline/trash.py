"""Two-step deletion: a rename into quarantine, then permanent deletion at once or after some days.

`.trash/<time>-<id>-<random>/` holds `entry.json`, which describes it, and `content`, the folder itself. Before
permanent deletion an entry is renamed to `.trash/.purge-<random>`, so that a partially deleted artifact is never found
or restored.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from longcat.pipeline.artifact import MANIFEST_NAME, InputRef
from longcat.pipeline.errors import LongcatError
from longcat.pipeline.files import atomic_write, fsync_folder, pretty_json, read_json

PURGE_PREFIX = ".purge-"
DAY_SECONDS = 86400


class Entry(BaseModel):
    """Quarantine entry: an artifact or the progress of a run, reason, and time (seconds since the epoch).

    `inputs` are its input ids; None if they could not be read.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)
    what: Literal["artifact", "progress", "file"]
    kind: str | None = None
    id: str
    reason: str
    removed: float
    path: str
    inputs: list[InputRef] | None = None
    damaged: bool = False


@dataclass(frozen=True)
class Trashed:
    """An entry with its folder."""

    folder: Path
    entry: Entry

    @property
    def content(self) -> Path:
        return self.folder / "content"


class Trash:
    """The quarantine of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".trash"

    def put(self, path: Path, entry: Entry) -> Trashed:
        """Move `path` here.

        Raises:
            LongcatError: it is on another file system and cannot be moved.
        """
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(entry.removed))
        made = self.folder / f"{stamp}-{entry.id}-{secrets.token_hex(4)}"
        made.mkdir(parents=True)
        atomic_write(made / "entry.json", pretty_json(entry.model_dump(mode="json")))
        trashed = Trashed(made, entry)
        try:
            path.rename(trashed.content)
        except OSError as error:
            shutil.rmtree(made, ignore_errors=True)
            if error.errno != errno.EXDEV:
                raise
            raise LongcatError(
                "is on another file system than the store and cannot be moved into quarantine",
                where=str(path),
                hint="`longcat artifacts gc --now --yes` deletes it where it is",
            ) from None
        fsync_folder(path.parent)
        fsync_folder(made)
        return trashed

    def entries(self) -> list[Trashed]:
        """All restorable entries, oldest first."""
        folders = sorted(self.folder.glob("[0-9]*")) if self.folder.is_dir() else []
        return [Trashed(folder, entry) for folder in folders if (entry := _read(folder)) is not None]

    def find(self, identifier: str, what: str) -> Trashed | None:
        """Newest intact entry of an id; damaged artifacts are never returned."""
        found = [
            item
            for item in self.entries()
            if item.entry.id == identifier and item.entry.what == what and not item.entry.damaged
        ]
        return found[-1] if found else None

    def restore(self, item: Trashed) -> Path:
        """Move the content back to its place.

        Raises:
            LongcatError: the place is taken.
        """
        target = self.root / item.entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A rename would replace a file or an empty folder.
            if os.path.lexists(target):
                raise OSError(errno.EEXIST, "exists")
            item.content.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise LongcatError("the path already exists", where=str(target), hint="remove it first") from None
        fsync_folder(target.parent)
        self.purge(item.folder)
        return target

    def purge(self, path: Path) -> None:
        """Permanently delete a folder or file; it is renamed before its first file is deleted.

        Raises:
            OSError: something below it cannot be deleted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        grave = self.folder / f"{PURGE_PREFIX}{secrets.token_hex(8)}"
        try:
            path.rename(grave)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            grave = path
            (path / MANIFEST_NAME).unlink(missing_ok=True)  # a partially deleted artifact is not an artifact
        else:
            fsync_folder(path.parent)
        _delete(grave)

    def leftovers(self) -> list[Path]:
        """Remains of interrupted deletions."""
        if not self.folder.is_dir():
            return []
        return [path for path in sorted(self.folder.iterdir()) if _is_leftover(path)]

    def expired(self, grace_days: float, now: float) -> Iterator[Trashed]:
        """Entries older than `grace_days`."""
        return (item for item in self.entries() if now - item.entry.removed >= grace_days * DAY_SECONDS)


def _delete(path: Path) -> None:
    while os.path.lexists(path):
        try:
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                shutil.rmtree(path)
        except FileNotFoundError:  # another process deletes it too
            continue


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(PURGE_PREFIX) or not os.path.lexists(path / "content")


def _read(folder: Path) -> Entry | None:
    content = folder / "content"
    if not os.path.lexists(content):
        return None
    try:
        return Entry.model_validate(read_json(folder / "entry.json"))
    except (FileNotFoundError, ValueError):
        return None
