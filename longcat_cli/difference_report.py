"""Printing of differences between two artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from longcat.cli.console import out
from longcat.cli.tables import table
from longcat.pipeline.values import leaves, written


def print_difference(changes: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    """Print the differences between two artifacts."""
    if not changes:
        out().print("no difference")
        return
    rows = table("section", "key", "~before", "~after")
    for section, values in changes.items():
        for key, (before, after) in values.items():
            for name, old, new in _plain_changes(key, before, after):
                rows.add_row(section, name, old, new)
    out().print(rows)


def _plain_changes(key: str, before: Any, after: Any) -> Iterable[tuple[str, str, str]]:
    """Print a changed value; in mappings and lists of records only the changed values inside."""
    old, new = (dict(leaves({key: value})) for value in (before, after))
    for name in dict.fromkeys((*old, *new)):
        first, second = (written(side[name], exact=True) if name in side else "" for side in (old, new))
        if first != second:
            yield name, first, second
