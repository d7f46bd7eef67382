"""What is known of a vocabulary before the stage that needs it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput


def vocabulary_of(given: PlannedInput) -> int | None:
    """Ids of the tokenizer behind a tokenizer or tokens artifact; None where it is not known."""
    known = given.artifact.manifest.metrics if given.artifact else given.forecast
    found = known.get("vocab_size")
    return found if isinstance(found, int) else None
