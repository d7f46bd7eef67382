"""The defaults keep plain prose of every language and drop its boilerplate; rules come from the document's language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.inspect.report import report
from longcat.stages.data.rules.by_language import rule_files, rules_name
from longcat.stages.data.rules.config import FilterConfig
from longcat.stages.data.rules.judge import RuleVerdict, judge
from longcat.stages.data.text.language import LanguageIdentifier

MakeDocuments = Callable[..., Artifact]
TEXTS: dict[str, dict[str, list[str]]] = yaml.safe_load(
    Path(__file__).with_name("languages.yaml").read_text(encoding="utf-8")
)
CASES = {
    kind: [(language, text.strip()) for language, kinds in TEXTS.items() for text in kinds[kind]]
    for kind in ("prose", "boilerplate")
}


@pytest.fixture(scope="module")
def identifier() -> LanguageIdentifier:
    return LanguageIdentifier()


def judged(language: str, text: str, identifier: LanguageIdentifier | None, **config: Any) -> RuleVerdict:
    settings = {"language": {"allowed": [language], "enabled": identifier is not None}, **config}
    return judge(Document("", text, "", language=language), FilterConfig.model_validate(settings), identifier)


@pytest.mark.parametrize(("language", "text"), CASES["prose"])
def test_prose_is_kept_whole(identifier: LanguageIdentifier, language: str, text: str) -> None:
    verdict = judged(language, text, identifier)
    assert verdict.reason is None
    assert verdict.text == text
    assert verdict.rules == (None if language == "en" else language)


@pytest.mark.parametrize(("language", "text"), CASES["boilerplate"])
def test_boilerplate_is_dropped(language: str, text: str) -> None:
    assert judged(language, text, None).reason is not None
    assert judged(language, f"{text}\n" * 3, None).reason is not None
    if language != "th":  # without sentence marks, a list on one line looks like a sentence
        assert judged(language, text.replace("\n", " | "), None).reason is not None


def test_a_text_of_several_paragraphs_of_prose_is_kept(identifier: LanguageIdentifier) -> None:
    for language, kinds in TEXTS.items():
        text = "\n\n".join(part.strip() for part in kinds["prose"])
        verdict = judged(language, text, identifier)
        assert (language, verdict.reason, verdict.text) == (language, None, text)


def test_stop_words_are_found_in_decomposed_texts_and_with_points() -> None:
    import unicodedata

    for language in ("vi", "el"):
        text = unicodedata.normalize("NFD", TEXTS[language]["prose"][0])
        assert judged(language, text, None).values["gopher_quality.stop_words"] > 5


@pytest.mark.parametrize(
    ("language", "name"),
    [
        ("zh", "zh"),
        ("zh-Hant-TW", "zh"),
        ("cmn_Hani", "zh"),
        ("yue", "zh"),
        ("sv", "other"),
        ("en", None),
        ("en-GB", None),
        ("und", None),
        (None, None),
    ],
)
def test_the_file_of_a_language(language: str | None, name: str | None) -> None:
    assert rules_name(language) == name


@pytest.mark.parametrize("name", rule_files())
def test_every_file_changes_existing_keys(name: str) -> None:
    rules = FilterConfig().for_rules(name)
    assert FilterConfig.model_validate(rules.model_dump()) == rules
    assert rules != FilterConfig()


def test_a_value_of_the_configuration_wins_over_the_file() -> None:
    config = FilterConfig.model_validate(
        {
            "gopher_quality": {"min_stop_words": None, "max_mean_word_length": 12},
            "by_language": {
                "rules": {"zh": {"fineweb": {"max_newlines_per_word": 0.9}, "c4": {"lines": {"min_words": 1}}}}
            },
        }
    )
    chinese, thai = config.for_rules("zh"), config.for_rules("th")
    assert (chinese.gopher_quality.min_stop_words, chinese.gopher_quality.max_mean_word_length) == (None, 12)
    assert chinese.gopher_quality.min_mean_word_length == 1
    assert (chinese.fineweb.max_newlines_per_word, thai.fineweb.max_newlines_per_word) == (0.9, 0.153)
    assert (chinese.c4.lines.min_words, thai.c4.lines.min_words) == (1, 3)
    off = FilterConfig.model_validate({"by_language": {"enabled": False}})
    assert off.for_rules("zh") == off


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"xx": {}}, "'xx' is not one of"),
        ({"zh": {"gopher_quality": {"min_word": 1}}}, r"zh\.gopher_quality\.min_word"),
        ({"zh": {"c4": 3}}, r"zh\.c4"),
    ],
)
def test_wrong_rules_of_a_language_name_their_key(
    session: Session, make_documents: MakeDocuments, rules: dict[str, Any], message: str
) -> None:
    documents = make_documents([Document("a", "text", "s")])
    with pytest.raises(ConfigError, match=message):
        run_stage(session, "data.filter", {"by_language": {"rules": rules}}, {"documents": documents})


def test_the_stage_records_the_rules_and_inspect_decides_by_them(
    session: Session, make_documents: MakeDocuments
) -> None:
    languages = ("zh", "th", "ru", "en")
    documents = make_documents(
        [
            Document(f"{language}{number}", text.strip(), "s")
            for language in languages
            for number, text in enumerate([*TEXTS[language]["prose"], *TEXTS[language]["boilerplate"]])
        ]
    )
    config = {"language": {"allowed": list(languages), "min_probability": None}}
    artifact = run_stage(session, "data.filter", config, {"documents": documents}).artifact
    rows = pq.read_table(artifact.file("attributes-00000.parquet")).to_pylist()
    prose = [row for row in rows if int(row["id"][2:]) < len(TEXTS[row["id"][:2]]["prose"])]
    assert {row["id"][:2]: row["rules"] for row in prose} == {"zh": "zh", "th": "th", "ru": "ru", "en": None}
    assert all(row["kept"] for row in prose)
    assert artifact.manifest.metrics["documents_by_rules"]["zh"] >= 3
    found = report(artifact, None, changes={"gopher_quality": {"max_words": 100_001}})
    assert found["counts"] == found["counts_before"]
    stricter = report(artifact, None, changes={"gopher_quality": {"min_words": 1000}})
    assert stricter["counts"]["kept"] == 0


def test_fractions_of_lines_are_of_several_lines() -> None:
    paragraph = TEXTS["ru"]["prose"][0].rstrip(".") + "…"
    values = judged("ru", paragraph, None).values
    assert "gopher_quality.ellipsis_line_fraction" not in values
    assert "fineweb.short_line_fraction" not in values
    assert values["fineweb.terminal_line_fraction"] == 1
    listed = TEXTS["ru"]["boilerplate"][2].replace("\n", " | ")
    assert judged("ru", listed, None).values["fineweb.terminal_line_fraction"] == 0
    assert judged("en", TEXTS["en"]["prose"][0], None).values["fineweb.terminal_line_fraction"] == 1
    three = judged("ru", "\n".join([paragraph] * 3), None).values
    assert three["gopher_quality.ellipsis_line_fraction"] == 1
