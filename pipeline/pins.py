"""Pins: artifacts that `gc` keeps without a name. `pins/<id>` is a file whose text says why."""

from __future__ import annotations

from longcat.pipeline.artifact import ID_PATTERN, Artifact
from longcat.pipeline.files import atomic_write, fsync_folder
from longcat.pipeline.store import Store

FOLDER = "pins"


def pin(store: Store, artifact: Artifact, why: str = "") -> None:
    """Pin an artifact, which keeps it and its ancestors."""
    atomic_write(store.root / FOLDER / artifact.id, f"{why}\n".encode())


def unpin(store: Store, identifier: str) -> bool:
    """Remove the pin of an id; returns whether there was one."""
    path = store.root / FOLDER / identifier
    if not path.exists():
        return False
    path.unlink()
    fsync_folder(path.parent)
    return True


def pinned(store: Store) -> list[str]:
    """Ids of all pins."""
    return sorted(path.name for path in (store.root / FOLDER).glob("*") if ID_PATTERN.fullmatch(path.name))
