"""Judges one document: measures it once, compares the values with thresholds, and names the first violated rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from longcat.pipeline.documents import Document
from longcat.stages.data.rules.by_language import rules_name
from longcat.stages.data.rules.config import FilterConfig, families
from longcat.stages.data.rules.family import Family, Kind, Subject
from longcat.stages.data.rules.language import LanguageRules
from longcat.stages.data.text.language import LanguageIdentifier
from longcat.stages.data.text.quality_classifier import QualityClassifier

EMPTY = "empty"
NOT_ALLOWED = "language.allowed"
# Reasons of documents whose URL is in a blocklist; they are not measured.
BLOCKED_DOMAIN, BLOCKED_URL = "blocklist.domain", "blocklist.url"

# Document kinds by the names used in extraction or a corpus; anything else is prose.
_KIND_NAMES: dict[str, Kind] = {
    "markdown": "markdown",
    "md": "markdown",
    "rst": "markdown",
    "notebook": "markdown",
    "code": "code",
}


@dataclass(slots=True)
class RuleVerdict:
    """Decision about a document. `values` is keyed `family.value`; `reason` is None if kept.

    `rules` is the name of the file of rules for its language, None for the rules of the configuration.
    """

    kind: Kind
    text: str
    language: str | None = None
    rules: str | None = None
    reason: str | None = None
    values: dict[str, float] = field(default_factory=dict)


def document_kind(document: Document) -> Kind:
    """Prose, markdown or code, from `metadata.kind` or `metadata.programming_language`."""
    stated = document.metadata.get("kind")
    if isinstance(stated, str) and stated.lower() in _KIND_NAMES:
        return _KIND_NAMES[stated.lower()]
    programming = document.metadata.get("programming_language")
    if isinstance(programming, str) and programming:
        return _KIND_NAMES.get(programming.lower(), "code")
    return "prose"


def stated_language(document: Document) -> str | None:
    """Language of a document, or of its metadata."""
    stated = document.language or document.metadata.get("language")
    return stated if isinstance(stated, str) else None


def judge(
    document: Document,
    config: FilterConfig,
    identifier: LanguageIdentifier | None,
    classifier: QualityClassifier | None = None,
) -> RuleVerdict:
    """Measure `document` by every family that judges its kind, and decide.

    All families are measured even if one drops the document, so that thresholds can be chosen from stored values.
    `identifier` is required if `config.language` is enabled; it is applied to every kind of document. The rules are
    those of the identified language, without an identifier of the stated one. Without a `classifier` the family
    `quality` is not applied.
    """
    verdict = RuleVerdict(document_kind(document), document.text)
    if not document.text.strip():
        verdict.reason = EMPTY
        return verdict
    subject = Subject(document.text, verdict.kind, identifier, classifier, document.metadata)
    # The language first, since it decides about the other rules.
    identified = config.language.measure(subject) if config.language.measures(verdict.kind) else {}
    verdict.rules = rules_name(stated_language(document) if identifier is None else subject.language)
    for name, family in _families(config, verdict.rules):
        measured = identified
        if not isinstance(family, LanguageRules):
            measured = family.measure(subject) if family.measures(verdict.kind) else {}
        verdict.values.update({f"{name}.{value}": number for value, number in measured.items()})
        if verdict.reason is None and family.judges(verdict.kind):
            broken = family.first_broken(subject, measured)
            verdict.reason = None if broken is None else f"{name}.{broken}"
    verdict.text, verdict.language = subject.text, subject.language
    if verdict.reason is None and not verdict.text.strip():
        verdict.reason = EMPTY
    return verdict


class _ByRules:
    """Families of a configuration by file of rules."""

    def __init__(self, config: FilterConfig) -> None:
        self.config = config
        self.found: dict[str | None, list[tuple[str, Family]]] = {}


@cache
def _shared() -> list[_ByRules]:
    return []


def _families(config: FilterConfig, rules: str | None) -> list[tuple[str, Family]]:
    """Families for documents of a file of rules; those of the last configuration are kept."""
    shared = _shared()
    if not shared or shared[0].config is not config:
        shared[:] = [_ByRules(config)]
    found = shared[0].found
    if rules not in found:
        found[rules] = families(config.for_rules(rules))
    return found[rules]
