"""Inputs intentionally absent from a store: left in another store, or removed by the user.

`.shallow/<id>` is an empty file for each, so that `verify` does not report them as missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from longcat.pipeline.artifact import ID_PATTERN, InputRef
from longcat.pipeline.files import atomic_write
from longcat.pipeline.store import Store


def absent_on_purpose(store: Store) -> set[str]:
    """Ids of such inputs."""
    return {path.name for path in (store.root / ".shallow").glob("*") if ID_PATTERN.fullmatch(path.name)}


def note_absent(store: Store, references: Iterable[InputRef]) -> None:
    """Record those of `references` that the store does not have."""
    for reference in references:
        if not store.folder(reference.kind, reference.id).is_dir():
            atomic_write(store.root / ".shallow" / reference.id, b"")
