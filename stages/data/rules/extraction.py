"""How sure extraction was of a page's text."""

from __future__ import annotations

from pydantic import Field

from longcat.stages.data.rules.family import Family, Kind, Subject


class ExtractionRules(Family):
    """Confidence of `data extract` in the main text of a page; documents of other origins have none."""

    values = ("confidence",)

    kinds: tuple[Kind, ...] = Field(default=("prose", "markdown"), description="Document kinds judged by this family.")
    min_confidence: float | None = Field(
        default=None, ge=0, le=1, description="Minimum of metadata.extraction_confidence; e.g. 0.7."
    )

    def measure(self, subject: Subject) -> dict[str, float]:
        stated = subject.metadata.get("extraction_confidence")
        return {"confidence": float(stated)} if isinstance(stated, float) else {}
