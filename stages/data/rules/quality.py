"""Quality classifier scores: the beginning first, the whole document only if undecided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from longcat.stages.data.rules.family import Family, Kind, Subject

if TYPE_CHECKING:
    from longcat.stages.data.text.quality_classifier import QualityClassifier


class QualityRules(Family):
    """Score of a classifier, if given as input `classifier`; coarse first, then fine.

    A document whose beginning scores below `min_coarse_score` is dropped; one whose beginning scores at least
    `sure_score` keeps that score; only others are scored as a whole.
    """

    values = ("coarse_score", "score")

    kinds: tuple[Kind, ...] = Field(default=("prose", "markdown"), description="Document kinds judged by this family.")
    coarse_characters: int = Field(default=1000, ge=1, description="Characters of the beginning that are scored first.")
    min_coarse_score: float | None = Field(default=0.1, ge=0, le=1, description="Minimum score of the beginning.")
    sure_score: float = Field(default=0.95, ge=0, le=1, description="Score from which the beginning suffices.")
    fine_characters: int = Field(default=10_000, ge=1, description="Characters of text that are scored after that.")
    min_score: float | None = Field(default=0.5, ge=0, le=1, description="Minimum score of the document.")

    def measure(self, subject: Subject) -> dict[str, float]:
        return {} if subject.classifier is None else measure(subject.text, subject.classifier, self)

    def needs_measuring(self, key: str, other: Family) -> bool:
        """Documents dropped by their beginning were not scored as a whole."""
        if key == "min_coarse_score" and isinstance(other, QualityRules):
            return (other.min_coarse_score or 0) < (self.min_coarse_score or 0)
        return super().needs_measuring(key, other)


def measure(text: str, classifier: QualityClassifier, rules: QualityRules) -> dict[str, float]:
    """`coarse_score` of the beginning; also `score` unless the beginning drops the document."""
    coarse = classifier.score(text, rules.coarse_characters)
    if rules.min_coarse_score is not None and coarse < rules.min_coarse_score:
        return {"coarse_score": coarse}
    sure = coarse >= rules.sure_score or len(text) <= rules.coarse_characters
    return {"coarse_score": coarse, "score": coarse if sure else classifier.score(text, rules.fine_characters)}
