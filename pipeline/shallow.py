"""Inputs that a store lacks on purpose: they stayed in another store, or the user removed them.

`.shallow/<id>` is an empty file for each, so that `verify` does not take their absence for a loss.
"""

from __future__ import annotations

from collections.abc import Iterable

from longcat.pipeline.artifact import ID_PATTERN, InputRef
from longcat.pipeline.files import atomic_write
from longcat.pipeline.store import Store


def absent_on_purpose(store: Store) -> set[str]:
    """The ids of such inputs."""
    return {path.name for path in (store.root / ".shallow").glob("*") if ID_PATTERN.fullmatch(path.name)}


def note_absent(store: Store, references: Iterable[InputRef]) -> None:
    """Note those of `references` that the store does not have."""
    for reference in references:
        if not store.folder(reference.kind, reference.id).is_dir():
            atomic_write(store.root / ".shallow" / reference.id, b"")
