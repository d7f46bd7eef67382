"""Base of rule families: options, measurements of a document, and violated rules.

A threshold is named `min_x` or `max_x` after the measured value `x` and is disabled by null. A document that
falls below a `min_x` or goes above a `max_x` is dropped, and the reason is `family.min_x` or `family.max_x`.
A new family is a class in a module of its own and a field of `config.FilterConfig`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from longcat.stages.data.rules.view import TextView
    from longcat.stages.data.text.language import LanguageIdentifier
    from longcat.stages.data.text.quality_classifier import QualityClassifier

Kind = Literal["prose", "markdown", "code"]


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Result of line rules: output `text`, and `kept`, its non-blank lines.

    `kept` are pairs of the line number in the input and the line; None if unchanged.
    """

    text: str
    kept: list[tuple[int, str | None]]


class Subject:
    """A document processed by the families, in order.

    `original` is the input text, `text` the result of C4's line rules, with details in `cleaned`.
    """

    def __init__(
        self,
        text: str,
        kind: Kind,
        identifier: LanguageIdentifier | None = None,
        classifier: QualityClassifier | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.original = self.text = text
        self.kind = kind
        self.identifier = identifier
        self.classifier = classifier
        self.metadata = metadata or {}
        self.language: str | None = None
        self.cleaned: Cleaned | None = None
        self._views: dict[bool, TextView] = {}

    def view(self, spare_markdown: bool) -> TextView:
        """Words of the original text; tokenised once for all families with the same view."""
        if spare_markdown not in self._views:
            from longcat.stages.data.rules.view import view_text

            self._views[spare_markdown] = view_text(self.original, spare_markdown)
        return self._views[spare_markdown]


class Family(BaseModel, ABC):
    """Base of all families; they are applied in the order of their fields in `FilterConfig`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    values: ClassVar[tuple[str, ...]]  # names of all values of `measure`, in column order

    enabled: bool = Field(default=True, description="Measure and judge documents by this family.")
    kinds: tuple[Kind, ...] = Field(default=("prose",), description="Document kinds judged by this family.")

    def judges(self, kind: Kind) -> bool:
        """Whether these rules apply to documents of a kind."""
        return self.enabled and kind in self.kinds

    def measures(self, kind: Kind) -> bool:
        """Whether documents of a kind are measured."""
        return self.judges(kind)

    @abstractmethod
    def measure(self, subject: Subject) -> dict[str, float]:
        """Values compared with thresholds; missing values violate no rule."""

    def first_broken(self, subject: Subject, measured: Mapping[str, float]) -> str | None:
        """Name of the first violated rule."""
        for rule in thresholds(self):
            value, threshold = measured.get(rule[4:]), getattr(self, rule)
            if value is not None and (value < threshold if rule.startswith("min_") else value > threshold):
                return rule
        return None

    def needs_measuring(self, key: str, other: Family) -> bool:
        """Whether decisions of `other`, with another value of `key`, cannot be computed from this family's values."""
        return key != "enabled" and not key.startswith(("min_", "max_"))


def possible_thresholds(family: Family) -> list[str]:
    """Names of all thresholds of a family."""
    return [name for name in type(family).model_fields if name.startswith(("min_", "max_"))]


def thresholds(family: Family) -> list[str]:
    """Names of enabled thresholds of a family."""
    return [name for name in possible_thresholds(family) if getattr(family, name) is not None]


def ratio(part: float, whole: float) -> float:
    """`part / whole`, or 0 if `whole` is 0."""
    return float(part / whole) if whole else 0.0
