"""Judging one document: measure it once, compare the values with the thresholds, name the first rule it breaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache, partial

from longcat.pipeline.documents import Document
from longcat.stages.data.filter import c4, code, fineweb, gopher, quality
from longcat.stages.data.filter.config import Family, FilterConfig, Kind
from longcat.stages.data.filter.view import view_text
from longcat.stages.data.language import LanguageIdentifier
from longcat.stages.data.quality.classifier import QualityClassifier

EMPTY = "empty"
NOT_ALLOWED = "language.allowed"

# Names by which extraction or a corpus may call a kind of document; anything else is prose.
_KIND_NAMES: dict[str, Kind] = {
    "markdown": "markdown",
    "md": "markdown",
    "rst": "markdown",
    "notebook": "markdown",
    "code": "code",
}


@dataclass(slots=True)
class Verdict:
    """What became of a document. `values` is keyed `family.value`; `reason` is None where it is kept."""

    kind: Kind
    text: str
    language: str | None = None
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


def judge(
    document: Document,
    config: FilterConfig,
    identifier: LanguageIdentifier | None,
    classifier: QualityClassifier | None = None,
) -> Verdict:
    """Measure `document` by every family that judges its kind, and decide.

    All families are measured even after one has dropped the document, so that thresholds can be chosen from the
    stored values. `identifier` is needed where `config.language` is enabled; it looks at every kind of document.
    Without a `classifier` the family `quality` judges nothing.
    """
    verdict = Verdict(document_kind(document), document.text)
    if not document.text.strip():
        verdict.reason = EMPTY
        return verdict
    if identifier is not None and config.language.enabled:
        verdict.language, probability = identifier.predict(document.text)
        verdict.values["language.probability"] = probability
    _measure(verdict, config)
    if classifier is not None and applies(config.quality, verdict.kind):
        _add(verdict.values, "quality", quality.measure(verdict.text, classifier, config.quality))
    verdict.reason = _first_broken(verdict, config)
    if verdict.reason is None and not verdict.text.strip():
        verdict.reason = EMPTY
    return verdict


def applies(family: Family, kind: Kind) -> bool:
    """Whether a family judges documents of a kind."""
    return family.enabled and kind in family.kinds


def _measure(verdict: Verdict, config: FilterConfig) -> None:
    kind, values = verdict.kind, verdict.values
    if applies(config.code, kind):
        _add(values, "code", code.measure(verdict.text))
    prose = (config.gopher_quality, config.gopher_repetition, config.c4, config.fineweb)
    if not any(applies(family, kind) for family in prose):
        return
    # By default all families take the same view, and the text is tokenised once.
    view = cache(partial(view_text, verdict.text))
    if applies(config.gopher_quality, kind):
        quality_view = view(config.gopher_quality.spare_markdown)
        _add(values, "gopher_quality", gopher.measure_quality(quality_view, config.gopher_quality.stop_words))
    if applies(config.gopher_repetition, kind):
        _add(values, "gopher_repetition", gopher.measure_repetition(view(config.gopher_repetition.spare_markdown)))
    left = view(config.fineweb.spare_markdown)
    lines = c4.whole(left)
    if applies(config.c4, kind):
        lines, measured = c4.clean(left, config.c4.lines)
        _add(values, "c4", measured)
        verdict.text = lines.text
    if applies(config.fineweb, kind):
        _add(values, "fineweb", fineweb.measure(lines, config.fineweb.short_line_length))


def _add(values: dict[str, float], family: str, measured: dict[str, float]) -> None:
    values.update({f"{family}.{name}": value for name, value in measured.items()})


def families(config: FilterConfig) -> list[tuple[str, Family]]:
    """The families of rules with their names, in the order in which they judge."""
    found = [(name, getattr(config, name)) for name in FilterConfig.model_fields]
    return [(name, family) for name, family in found if isinstance(family, Family)]


def _first_broken(verdict: Verdict, config: FilterConfig) -> str | None:
    for name, family in families(config):
        if not applies(family, verdict.kind):
            continue
        if name == "language" and config.language.allowed and verdict.language not in config.language.allowed:
            return NOT_ALLOWED
        for rule in thresholds(family):
            value = verdict.values.get(f"{name}.{rule[4:]}")
            threshold = getattr(family, rule)
            if value is None:
                continue
            if value < threshold if rule.startswith("min_") else value > threshold:
                return f"{name}.{rule}"
    return None


def thresholds(family: Family) -> list[str]:
    """Names of the thresholds of a family that are switched on."""
    fields = type(family).model_fields
    return [name for name in fields if name.startswith(("min_", "max_")) and getattr(family, name) is not None]


def value_names() -> list[str]:
    """Every value that may be measured, in the order of the columns of the attributes file."""
    view = view_text("")
    measured = {
        "gopher_quality": gopher.measure_quality(view, ()),
        "gopher_repetition": gopher.measure_repetition(view),
        "c4": c4.clean(view, FilterConfig().c4.lines)[1],
        "fineweb": fineweb.measure(c4.whole(view), 0),
        "code": code.measure(""),
        "quality": dict.fromkeys(quality.VALUES, 0.0),
    }
    names = [f"{family}.{name}" for family, values in measured.items() for name in values]
    return ["language.probability", *names, "sites.lines_removed"]
