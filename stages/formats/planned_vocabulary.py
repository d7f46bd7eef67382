"""Vocabulary size known at planning time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def vocabulary_of(given: PlannedInput) -> int | None:
    """Number of tokenizer ids of a tokenizer or tokens artifact; None if unknown."""
    known = given.artifact.manifest.metrics if given.artifact else given.forecast
    found = known.get("vocab_size")
    return found if isinstance(found, int) else None
