"""Language identification."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from longcat.stages.data.rules.family import Family, Kind, Subject


class LanguageRules(Family):
    """fastText's lid.176 on the first 4 kB of the text."""

    values = ("probability",)

    kinds: tuple[Kind, ...] = Field(default=("prose", "markdown"), description="Document kinds judged by this family.")
    allowed: tuple[str, ...] = Field(default=("en",), description="ISO 639 codes to keep; empty keeps all.")
    min_probability: float | None = Field(default=0.65, ge=0, le=1, description="Minimum probability of the language.")

    def measures(self, kind: Kind) -> bool:
        """The language of every document is recorded, though it drops only some kinds."""
        return self.enabled

    def measure(self, subject: Subject) -> dict[str, float]:
        """Probability of the most likely language."""
        if subject.identifier is None:
            return {}
        subject.language, probability = subject.identifier.predict(subject.original)
        return {"probability": probability}

    def first_broken(self, subject: Subject, measured: Mapping[str, float]) -> str | None:
        if self.allowed and subject.language not in self.allowed:
            return "allowed"
        return super().first_broken(subject, measured)

    def needs_measuring(self, key: str, other: Family) -> bool:
        return key != "allowed" and super().needs_measuring(key, other)
