"""What the quality classifier says of a document: its beginning first, the whole only where that leaves doubt."""

from __future__ import annotations

from longcat.stages.data.filter.config import QualityRules
from longcat.stages.data.quality.classifier import QualityClassifier

VALUES = ("coarse_score", "score")


def measure(text: str, classifier: QualityClassifier, rules: QualityRules) -> dict[str, float]:
    """`coarse_score` of the beginning; `score` too where the beginning does not already drop the document."""
    coarse = classifier.score(text, rules.coarse_characters)
    if rules.min_coarse_score is not None and coarse < rules.min_coarse_score:
        return {"coarse_score": coarse}
    sure = coarse >= rules.sure_score or len(text) <= rules.coarse_characters
    return {"coarse_score": coarse, "score": coarse if sure else classifier.score(text, rules.fine_characters)}
