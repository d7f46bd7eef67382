"""Every rule of the filter drops what it is there for, by itself, and lets good prose pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from longcat.pipeline.config import build_config
from longcat.pipeline.documents import Document
from longcat.pipeline.errors import ConfigError
from longcat.stages.data.rules.config import FilterConfig, rules_on, value_names
from longcat.stages.data.rules.family import thresholds
from longcat.stages.data.rules.judge import RuleVerdict, document_kind, judge

FAMILIES = ("language", "extraction", "gopher_quality", "gopher_repetition", "c4", "fineweb", "code")


def configure(**families: dict[str, Any]) -> FilterConfig:
    """Only the named families are on."""
    values = {name: {"enabled": name in families, **families.get(name, {})} for name in FAMILIES}
    return build_config(FilterConfig, values, "test")


def only(rule: str, **settings: Any) -> FilterConfig:
    """Only one threshold of one family is on."""
    family, name = rule.split(".")
    defaults = getattr(FilterConfig(), family)
    off = {other: None for other in thresholds(defaults) if other != name}
    return configure(**{family: {**off, **settings}})


def judged(text: str, config: FilterConfig, **fields: Any) -> RuleVerdict:
    return judge(Document(id="d", text=text, source="test", **fields), config, None)


@pytest.mark.parametrize(("confidence", "reason"), [(0.4, "extraction.min_confidence"), (0.9, None), (None, None)])
def test_pages_of_little_confidence_are_dropped(prose: str, confidence: float | None, reason: str | None) -> None:
    metadata = {} if confidence is None else {"extraction_confidence": confidence}
    config = configure(extraction={"min_confidence": 0.7})
    assert judged(prose, config, metadata=metadata).reason == reason
    assert judged(prose, configure(), metadata=metadata).reason is None


def again(prose: str, part: str, times: int, between: str = "\n") -> str:
    """Good prose, then `part` again and again."""
    return prose + between + between.join([part] * times)


def line(prose: str, number: int, words: int | None = None) -> str:
    return " ".join(prose.split("\n")[number].split()[:words])


def bullets(prose: str) -> str:
    return "\n".join(f"- {item}" for item in prose.split("\n"))


# For every rule, good prose spoilt in the one respect that the rule is about.
SPOILT: dict[str, Callable[[str], str]] = {
    "gopher_quality.min_words": lambda prose: " ".join(prose.split()[:40]),
    "gopher_quality.max_words": lambda prose: " ".join([prose] * 900),
    "gopher_quality.min_mean_word_length": lambda _: "it is so to be of an or by me he up as we " * 10,
    "gopher_quality.max_mean_word_length": lambda _: "internationalisation notwithstanding characterisations " * 30,
    "gopher_quality.max_hash_ratio": lambda prose: prose.replace(" ", " # "),
    "gopher_quality.max_ellipsis_ratio": lambda prose: prose.replace(" ", " ... "),
    "gopher_quality.max_bullet_line_fraction": bullets,
    "gopher_quality.max_ellipsis_line_fraction": lambda prose: prose.replace(".", "..."),
    "gopher_quality.min_alphabetic_word_fraction": lambda prose: prose + " 12 34 56 78" * 20,
    "gopher_quality.min_stop_words": lambda _: "Rivers rise, meadows flood, farmers build walls, herons fish. " * 9,
    "gopher_repetition.max_duplicate_paragraph_fraction": lambda prose: again(prose, "Read more.", 4, "\n\n"),
    "gopher_repetition.max_duplicate_paragraph_characters": lambda prose: again(prose, line(prose, 0), 4, "\n\n"),
    "gopher_repetition.max_duplicate_line_fraction": lambda prose: again(prose, "Read more.", 6),
    "gopher_repetition.max_duplicate_line_characters": lambda prose: again(prose, line(prose, 0), 4),
    "gopher_repetition.max_top_2_gram": lambda prose: again(prose, "great pumpkin", 25, " "),
    "gopher_repetition.max_top_3_gram": lambda prose: again(prose, "great big pumpkin", 15, " "),
    "gopher_repetition.max_top_4_gram": lambda prose: again(prose, "great big round pumpkin", 10, " "),
    **{
        f"gopher_repetition.max_duplicate_{size}_grams": lambda prose: again(prose, line(prose, 1, 10), 12, " ")
        for size in range(5, 11)
    },
    "c4.max_lorem_ipsum": lambda prose: prose + "\nLorem ipsum dolor sit amet.",
    "c4.max_curly_brackets": lambda prose: prose + "\nThe style is a{color:red} and so on.",
    "c4.min_sentences": lambda prose: "\n".join(prose.split("\n")[:4]),
    "fineweb.min_terminal_line_fraction": lambda prose: prose.replace(".", ""),
    "fineweb.max_short_line_fraction": lambda prose: prose + "".join(f"\nIt is number {n} here." for n in range(20)),
    "fineweb.max_duplicate_line_characters": lambda prose: again(prose, "Read more of it here.", 2),
    "fineweb.max_newlines_per_word": lambda prose: "\n".join(prose.split()),
    "code.max_line_length": lambda _: "x = 1\n" * 50 + "y = '" + "a" * 1100 + "'",
    "code.max_mean_line_length": lambda _: "\n".join(["z = '" + "a" * 120 + "'"] * 5),
    "code.min_alphanumeric_fraction": lambda _: "++--**//==\n" * 40 + "x = 1\n",
}
CODE = "def area(width, height):\n    return width * height\n\n\nprint(area(3, 4))\n"
ALL_RULES = [f"{name}.{rule}" for name in FAMILIES[1:] for rule in thresholds(getattr(FilterConfig(), name))]


@pytest.mark.parametrize("rule", ALL_RULES)
def test_each_rule_drops_its_case_and_keeps_good_text(rule: str, prose: str) -> None:
    kind = {"kind": "code"} if rule.startswith("code.") else {}
    spoilt = SPOILT[rule](prose)
    assert judged(spoilt, only(rule), metadata=kind).reason == rule
    good = CODE if kind else prose
    verdict = judged(good, only(rule), metadata=kind)
    assert (verdict.reason, verdict.text) == (None, good)
    threshold = rule.partition(".")[2]
    assert judged(spoilt, only(rule, **{threshold: None}), metadata=kind).reason is None


def test_good_prose_passes_all_published_thresholds(prose: str) -> None:
    assert judged(prose, configure(gopher_repetition={}, gopher_quality={}, c4={}, fineweb={})).reason is None


def test_the_first_broken_rule_in_order_is_the_reason() -> None:
    config = configure(gopher_repetition={}, gopher_quality={}, c4={}, fineweb={})
    verdict = judged("Read more.\n\n" * 9, config)
    assert verdict.reason == "gopher_quality.min_words"
    assert verdict.values["gopher_quality.words"] == 18
    assert verdict.values["gopher_repetition.duplicate_paragraph_fraction"] == pytest.approx(8 / 9)
    assert verdict.values["c4.sentences"] == 0


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_an_empty_text_is_dropped_whatever_is_switched_on(text: str) -> None:
    assert judged(text, configure()).reason == "empty"


def test_a_family_that_is_off_measures_nothing(prose: str) -> None:
    verdict = judged(SPOILT["c4.max_lorem_ipsum"](prose), configure(gopher_quality={}))
    assert verdict.reason is None
    assert {name.split(".")[0] for name in verdict.values} == {"gopher_quality"}


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({}, "prose"),
        ({"kind": "article"}, "prose"),
        ({"kind": "Markdown"}, "markdown"),
        ({"kind": "code"}, "code"),
        ({"programming_language": "Python"}, "code"),
        ({"programming_language": "Markdown"}, "markdown"),
        ({"kind": 3, "programming_language": ""}, "prose"),
    ],
)
def test_the_kind_comes_from_the_metadata(metadata: dict[str, Any], kind: str) -> None:
    assert document_kind(Document(id="d", text="x", source="test", metadata=metadata)) == kind


def test_source_code_is_judged_by_the_rules_for_code_alone() -> None:
    config = configure(**{name: {} for name in FAMILIES if name != "language"})
    verdict = judged(CODE, config, metadata={"programming_language": "Python"})
    assert (verdict.reason, verdict.text) == (None, CODE)
    assert {name.split(".")[0] for name in verdict.values} == {"code"}
    assert judged(CODE, config).reason is not None


def test_the_kinds_a_family_judges_can_be_set() -> None:
    config = configure(code={"kinds": ["prose"]}, c4={"kinds": []})
    assert config.code.judges("prose")
    assert not config.code.judges("code")
    assert not config.c4.judges("prose")


def test_families_measure_what_they_say_and_every_threshold_has_its_value(prose: str) -> None:
    every = {name: {"kinds": ["prose"]} for name in (*FAMILIES, "quality")}
    verdict = judge(
        Document("d", prose, "test", metadata={"extraction_confidence": 0.9}),
        build_config(FilterConfig, every, "test"),
        _Says("en", 0.9),
        _Scores(),
    )  # type: ignore[arg-type]
    written = {name for name in value_names() if not name.startswith(("sites.", "pii."))}
    assert set(verdict.values) == written
    assert {rule.replace(".min_", ".").replace(".max_", ".") for rule in rules_on(FilterConfig())} <= set(value_names())


def test_a_mistyped_threshold_is_named() -> None:
    with pytest.raises(ConfigError, match=r"gopher_quality\.min_wrds.*min_words"):
        configure(gopher_quality={"min_wrds": 3})


class _Says:
    """Stands for the language model."""

    def __init__(self, code: str, probability: float) -> None:
        self.answer = code, probability

    def predict(self, text: str) -> tuple[str, float]:
        return self.answer


class _Scores:
    """Stands for the classifier."""

    def score(self, text: str, characters: int) -> float:
        return 0.9


@pytest.mark.parametrize(
    ("code", "probability", "rules", "reason"),
    [
        ("en", 0.9, {}, None),
        ("de", 0.9, {}, "language.allowed"),
        ("en", 0.5, {}, "language.min_probability"),
        ("en", 0.5, {"min_probability": None}, None),
        ("de", 0.9, {"allowed": ["en", "de"]}, None),
        ("de", 0.9, {"allowed": []}, None),
        ("de", 0.5, {"allowed": []}, "language.min_probability"),
    ],
)
def test_language_is_judged_by_code_and_probability(
    code: str, probability: float, rules: dict[str, Any], reason: str | None, prose: str
) -> None:
    verdict = judge(Document(id="d", text=prose, source="test"), configure(language=rules), _Says(code, probability))  # type: ignore[arg-type]
    assert (verdict.language, verdict.reason) == (code, reason)
    assert verdict.values == {"language.probability": probability}
