"""The report on a filtered artifact: decisions made again from stored values are those the filter makes from texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError, UsageError
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.inspect.report import report
from longcat.stages.formats.lengths import length_rows

MakeDocuments = Callable[..., Artifact]
NO_LANGUAGE = {"language": {"enabled": False}}


@pytest.fixture
def corpus(make_documents: MakeDocuments, prose: str) -> Artifact:
    lines = prose.split("\n")
    first = [
        Document("good", prose, "s"),
        Document("short", "\n".join(lines[:2]), "s"),
        Document("empty", "", "s"),
        Document("nothing left", "Menu\nHome\n" * 40, "s"),
    ]
    second = [
        Document("brackets", prose + "\nThe style is a{color:red} here.", "s"),
        Document("again", "\n".join([lines[0]] * 9), "s"),
        Document("code", "x = 1\ny = 2\n", "s", metadata={"kind": "code"}),
    ]
    return make_documents(first, [], second)


def filtered(session: Session, corpus: Artifact, config: dict[str, Any]) -> Artifact:
    return run_stage(session, "data.filter", {**NO_LANGUAGE, **config}, {"documents": corpus}).artifact


CHANGES: list[dict[str, Any]] = [
    {"gopher_quality": {"min_words": 130}},
    {"gopher_quality": {"min_words": None, "min_stop_words": None}, "c4": {"min_sentences": None}},
    {"gopher_quality": {"enabled": False}, "gopher_repetition": {"enabled": False}, "c4": {"min_sentences": 0}},
    {"c4": {"max_curly_brackets": 5}, "fineweb": {"enabled": False}},
    {"gopher_repetition": {"max_duplicate_line_fraction": None}, "code": {"min_alphanumeric_fraction": 0.99}},
]


@pytest.mark.parametrize("changes", CHANGES, ids=range(len(CHANGES)))
def test_other_thresholds_give_what_another_run_gives(
    session: Session, corpus: Artifact, changes: dict[str, Any]
) -> None:
    found = report(filtered(session, corpus, {}), [corpus], changes=changes)
    anew = filtered(session, corpus, changes).manifest.counts
    assert found["counts"] == {"kept": anew["documents_out"], **anew["dropped"]}
    assert found["counts_before"] != found["counts"]
    moved = sum(change["documents"] for change in found["changes"])
    assert moved >= abs(found["counts"]["kept"] - found["counts_before"]["kept"])


def test_counts_and_histogram_and_examples(session: Session, corpus: Artifact, prose: str) -> None:
    found = report(filtered(session, corpus, {}), [corpus], rules=("gopher_quality.min_words",), bins=6)
    assert found["documents"] == sum(found["counts"].values()) == 7
    assert found["counts"]["empty"] == 1
    (rule,) = found["rules"]
    assert (rule["measured"], rule["beyond"], rule["first_reason"]) == (5, 1, 1)
    assert sum(row["documents"] for row in rule["histogram"]) == 5
    assert 50.0 in [row["from"] for row in rule["histogram"]]
    (dropped,) = rule["dropped_examples"]
    assert (dropped["id"], dropped["value"]) == ("short", len(" ".join(prose.split("\n")[:2]).split()))
    assert dropped["text"] == "\n".join(prose.split("\n")[:2])[:240]
    assert rule["kept_examples"][0]["id"] == "good"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gopher_quality": {"stop_words": ["of"]}}, "changes what is measured"),
        ({"c4": {"enabled": False}}, "changes what is measured"),
        ({"language": {"min_probability": 0.3}}, "was disabled"),
        ({"gopher_quality": {"min_wrds": 3}}, "min_words"),
    ],
)
def test_changes_that_stored_values_cannot_answer_are_refused(
    session: Session, corpus: Artifact, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        report(filtered(session, corpus, {}), [], changes=changes)


def test_an_artifact_of_another_stage_and_an_unknown_rule_are_refused(session: Session, corpus: Artifact) -> None:
    with pytest.raises(InputError, match=r"not by data\.filter"):
        report(corpus, [])
    with pytest.raises(UsageError, match=r"gopher_quality\.min_words"):
        report(filtered(session, corpus, {}), [], rules=("gopher_quality.words",))


def test_attributes_without_a_column_or_of_no_parquet_are_named(session: Session, corpus: Artifact) -> None:
    artifact = filtered(session, corpus, {})
    attributes = artifact.file("attributes-00000.parquet")
    table = pq.read_table(attributes)
    pq.write_table(table.drop_columns(["quality.score"]), attributes)
    with pytest.raises(IntegrityError, match=r"quality\.score.*run longcat data filter again"):
        report(artifact, [], changes={"gopher_quality": {"min_words": 9}})
    attributes.write_bytes(b"PAR1" * 9)
    with pytest.raises(IntegrityError, match=r"attributes-00000\.parquet: not a Parquet file"):
        report(artifact, [])


def test_texts_come_only_from_the_input_that_was_filtered(
    session: Session, corpus: Artifact, make_documents: MakeDocuments, prose: str
) -> None:
    artifact = filtered(session, corpus, {})
    with pytest.raises(IntegrityError, match="number of shards differs"):
        report(artifact, [make_documents([Document("x", prose, "s")])])
    with pytest.raises(IntegrityError, match="fewer documents"):
        report(artifact, [make_documents([], [], [])])


def test_the_command_prints_the_report(session: Session, corpus: Artifact, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = filtered(session, corpus, {})
    call = ["--store", str(session.store.root), "data", "inspect", artifact.id]
    assert run(call) == 0
    shown = capfd.readouterr().out
    for part in ("7 documents", "gopher_quality.min_words", "█", "short", "dropped"):
        assert part in shown
    assert run([*call, "--set", "gopher_quality.min_words=10", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["changes"]


def test_the_command_shows_lengths(session: Session, corpus: Artifact, capfd: pytest.CaptureFixture[str]) -> None:
    """In bytes, of documents, and only if asked of filtered ones."""
    kept = filtered(session, corpus, {})
    call = ["--store", str(session.store.root), "data", "inspect"]
    assert run([*call, corpus.id, "--json"]) == 0
    (rows,) = json.loads(capfd.readouterr().out)["tables"].values()
    sizes = [len(document.text.encode()) for path in document_shards(corpus) for document in read_documents(path)]
    assert rows == length_rows(sizes, "bytes")
    assert run([*call, kept.id, "--lengths"]) == 0
    assert "documents by length" in capfd.readouterr().out
    assert run([*call, corpus.id, "--rule", "gopher_quality.min_words"]) == 2
    assert "--rule and --set are for the rules of a filtered artifact" in capfd.readouterr().err
