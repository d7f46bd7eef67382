"""The stage `data.decontaminate`: detected items, kept documents, report, and errors."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError, LongcatError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data.decontaminate import match

MakeDocuments = Callable[..., Artifact]
Items = list[dict[str, str]]


def cleaned(session: Session, documents: Artifact, benchmark: str, **config: object) -> Artifact:
    settings = {"benchmarks": [benchmark], **config}
    return run_stage(session, "data.decontaminate", settings, {"documents": documents}).artifact


def texts(artifact: Artifact) -> dict[str, str]:
    return {item.id: item.text for shard in document_shards(artifact) for item in read_documents(shard)}


def findings(artifact: Artifact) -> list[dict[str, object]]:
    return pq.read_table(artifact.file("findings.parquet")).to_pylist()


def embed(text: str, prose: str) -> str:
    lines = prose.split("\n")
    return "\n".join([*lines[:3], text, *lines[3:]])


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text,
        lambda text: "\n".join(textwrap.wrap(text, 24)),
        lambda text: "\n\n".join(text.split()),
        str.upper,
        lambda text: re.sub(r"[^\w\s]", "", text),
        lambda text: re.sub(r"[^\w\s]", " ", text),
        lambda text: re.sub(r"\s+", " ... ", text.replace("'", "’")),
        lambda text: "> " + "\n> ".join(textwrap.wrap(text.title(), 30)),
    ],
    ids=[
        "as it is",
        "wrapped",
        "one word per line",
        "upper case",
        "punctuation deleted",
        "spaces for punctuation",
        "dots for spaces",
        "quoted",
    ],
)
def test_a_disguised_item_is_found_at_any_position(
    session: Session,
    make_documents: MakeDocuments,
    benchmark: str,
    items: Items,
    prose: str,
    disguise: Callable[[str], str],
) -> None:
    documents = make_documents(
        {"clean": prose, "first": embed(disguise(items[0]["question"]), prose)},
        {"brief": embed(disguise(items[1]["question"]), prose)},
    )
    artifact = cleaned(session, documents, benchmark)
    assert texts(artifact) == {"clean": prose}
    assert artifact.manifest.counts == {
        "documents_in": 3,
        "documents_out": 1,
        "dropped": {"benchmark_ngram": 1, "benchmark_whole": 1},
    }
    assert {(row["document"], row["item"], row["rule"]) for row in findings(artifact)} == {
        ("first", "0", "ngram"),
        ("brief", "1", "whole"),
    }


def test_a_paraphrase_is_found_and_a_text_about_the_same_things_is_not(
    session: Session, make_documents: MakeDocuments, benchmark: str, prose: str
) -> None:
    paraphrase = (
        "At a bakery owned by Carla, 14 walnut loaves are sold on every weekday, while on each Saturday she sells "
        "twice that number. If the bakery is always closed on Sunday, how many walnut loaves get sold in four weeks?"
    )
    other = "The bakery by the station is closed on Sunday. It has walnut bread, and on Saturday one waits for weeks."
    documents = make_documents({"paraphrase": embed(paraphrase, prose), "other": embed(other, prose)})
    artifact = cleaned(session, documents, benchmark)
    assert list(texts(artifact)) == ["other"]
    (row,) = findings(artifact)
    assert (row["document"], row["item"], row["rule"], row["ngrams"]) == ("paraphrase", "0", "similar", 0)
    assert 0.65 <= row["share"] <= 1
    assert list(texts(cleaned(session, documents, benchmark, similar=False))) == ["paraphrase", "other"]


def test_distant_words_of_an_item_are_not_a_paraphrase(
    session: Session, make_documents: MakeDocuments, benchmark: str, items: Items
) -> None:
    # A long item makes the compared blocks longer than the window of this item.
    path = Path(benchmark.rpartition(":")[0])
    path.write_text(
        path.read_text() + json.dumps({"question": " ".join(f"term{n}" for n in range(128)), "answer": ""}) + "\n"
    )
    words = re.findall(r"\w+", items[2]["question"])
    near = " ".join(reversed(words))
    scattered = " ".join(f"{word} one two three four five six seven" for word in words)
    documents = make_documents({"near": near, "scattered": scattered})
    assert list(texts(cleaned(session, documents, benchmark))) == ["scattered"]


def test_code_without_punctuation_is_found(
    session: Session, make_documents: MakeDocuments, tmp_path: Path, prose: str
) -> None:
    path = tmp_path / "code.jsonl"
    code = (
        "def has_close_elements(numbers_list, upper_threshold): return any(abs(a_b-c_d) < upper_threshold for a_b in "
    )
    code += "numbers_list for c_d in other_list if is_open(c_d) and not is_shut(a_b) or all_are_equal(a_b, c_d))"
    path.write_text(json.dumps({"code": code}) + "\n")
    documents = make_documents({"stripped": embed(re.sub(r"[^\w\s]|_", "", code), prose)})
    assert texts(cleaned(session, documents, f"{path}:code", similar=False)) == {}


def test_a_match_across_the_border_of_two_blocks_is_found(
    session: Session,
    make_documents: MakeDocuments,
    benchmark: str,
    items: Items,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(match, "STRETCH_WORDS", 64)
    # An item of 40 words that is matched as a whole makes the blocks overlap by more than an n-gram.
    path = Path(benchmark.rpartition(":")[0])
    path.write_text(path.read_text() + json.dumps({"question": "7 " * 40, "answer": ""}) + "\n")
    padded = {f"{pad}": "word " * pad + items[2]["answer"] for pad in range(40, 72, 3)}
    artifact = cleaned(session, make_documents(padded), benchmark, similar=False)
    assert texts(artifact) == {}
    # Each n-gram once, also at the border of two blocks.
    assert {row["ngrams"] for row in findings(artifact)} == {len(items[2]["answer"].split()) - 12}


def test_cutting_leaves_the_rest_and_nothing_of_the_item(
    session: Session, make_documents: MakeDocuments, benchmark: str, items: Items, prose: str
) -> None:
    documents = make_documents(
        {"cut": f"{prose}\n{items[0]['question']}\n{prose}", "bare": "Yes: " + items[0]["question"], "clean": prose}
    )
    artifact = cleaned(session, documents, benchmark, action="cut", cut_margin_words=0)
    kept = texts(artifact)
    assert kept == {"cut": f"{prose}\n\n{prose}", "clean": prose}
    assert artifact.manifest.counts["dropped"] == {"little_left_after_cut": 1}
    assert artifact.manifest.metrics["documents_cut"] == 1
    wide = texts(cleaned(session, documents, benchmark, action="cut", cut_margin_words=8))["cut"]
    assert wide == prose.rsplit(" ", 8)[0] + "\n\n" + prose.split(" ", 8)[8]


def test_an_item_joined_by_a_cut_is_cut_as_well(
    session: Session, make_documents: MakeDocuments, benchmark: str, items: Items, prose: str
) -> None:
    # Neither half of the answer has thirteen words, so at first only the question is found.
    question, answer = items[0]["question"], items[2]["answer"]
    half = answer.index("and together")
    nested = f"{prose}\n{answer[:half]} {question} {answer[half:]}\n{prose}"
    documents = make_documents({"a": nested})
    artifact = cleaned(session, documents, benchmark, action="cut", cut_margin_words=0, similar=False)
    assert [row["item"] for row in findings(artifact)] == ["0"]
    assert texts(artifact) == {"a": f"{prose}\n\n{prose}"}
    again = cleaned(session, artifact, benchmark, similar=False)
    assert again.manifest.counts["dropped"] == {}


def test_rows_of_numbers_are_not_items(
    session: Session, make_documents: MakeDocuments, tmp_path: Path, prose: str
) -> None:
    numbers = " ".join(map(str, range(1, 30)))
    items = [{"text": f"Add the following numbers for me: {numbers}"}, {"text": prose.split("\n", maxsplit=1)[0]}]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    documents = make_documents({"count": f"Counting: {numbers}"})
    assert list(texts(cleaned(session, documents, f"{path}:text", similar=False))) == ["count"]
    artifact = cleaned(session, documents, f"{path}:text", similar=False, min_distinct_words=0)
    assert texts(artifact) == {}


def test_the_report_names_every_item(
    session: Session, make_documents: MakeDocuments, benchmark: str, items: Items, prose: str
) -> None:
    documents = make_documents({"a": embed(items[1]["question"], prose)}, {"b|c": items[1]["question"], "d": prose})
    artifact = cleaned(session, documents, benchmark)
    rows = pq.read_table(artifact.file("items.parquet")).to_pylist()
    assert [(row["item"], row["documents"], row["places"]) for row in rows] == [("0", 0, 0), ("1", 2, 2), ("2", 0, 0)]
    assert rows[1]["fields_not_looked_for"] == ["answer"]
    assert rows[1]["rules"] == ["whole"]
    assert (rows[1]["example_document"], rows[1]["example"]) == ("a", "Which quokka invented the trombone")
    page = artifact.file("report.md").read_text()
    assert "| quiz | 3 | 3 | 1 | 2 | ngram, whole, similar |" in page
    assert "| 1 | 2 | 2 | whole | a | Which quokka invented the trombone |" in page


def test_items_too_short_are_listed(
    session: Session, make_documents: MakeDocuments, benchmark: str, prose: str
) -> None:
    artifact = cleaned(session, make_documents({"a": prose}), benchmark, min_words=6)
    assert "Not looked for, too short: 1." in artifact.file("report.md").read_text()
    assert artifact.manifest.metrics["items_looked_for"] == 2


@pytest.mark.parametrize("rule", ["ngram", "whole", "similar"])
def test_a_canary_that_is_not_found_fails_the_stage(
    session: Session,
    make_documents: MakeDocuments,
    benchmark: str,
    prose: str,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
) -> None:
    scan = match.Scanner.scan
    monkeypatch.setattr(
        match.Scanner, "scan", lambda self, text: [found for found in scan(self, text) if found.rule != rule]
    )
    with pytest.raises(LongcatError, match=f"not found by the rule '{rule}'"):
        cleaned(session, make_documents({"a": prose}), benchmark)


def test_the_bytes_do_not_depend_on_the_workers(
    session: Session, make_documents: MakeDocuments, benchmark: str, items: Items, prose: str
) -> None:
    shards = [{"a": prose, "b": embed(items[0]["question"], prose)}, {"c": items[2]["answer"], "d": prose.upper()}]
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=2))
    one = cleaned(session, make_documents(*shards), benchmark, action="cut")
    two = cleaned(other, make_documents(*shards, into=other), benchmark, action="cut")
    assert one.path != two.path
    assert one.manifest.files == two.manifest.files


def test_an_interrupted_run_resumes(
    session: Session,
    make_documents: MakeDocuments,
    benchmark: str,
    items: Items,
    prose: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = [{"a": prose}, {"b": embed(items[0]["question"], prose)}, {"c": prose.upper()}]
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=1))
    expected = cleaned(other, make_documents(*shards, into=other), benchmark)
    documents = make_documents(*shards)
    read: list[str] = []
    scan = match.Scanner.scan

    def failing(self: match.Scanner, text: str) -> list[match.Match]:
        read.append(text)
        if text == prose.upper() and read.count(text) == 1:
            raise KeyboardInterrupt
        return scan(self, text)

    monkeypatch.setattr(match.Scanner, "scan", failing)
    with pytest.raises((KeyboardInterrupt, LongcatError)):
        cleaned(session, documents, benchmark)
    artifact = cleaned(session, documents, benchmark)
    assert artifact.manifest.files == expected.manifest.files
    assert [read.count(text) for text in (prose, prose.upper())] == [1, 2]


def test_a_changed_benchmark_makes_another_artifact(
    session: Session, make_documents: MakeDocuments, benchmark: str, prose: str
) -> None:
    documents = make_documents({"a": prose})
    before = cleaned(session, documents, benchmark)
    path = Path(benchmark.rpartition(":")[0])
    path.write_text(path.read_text() + json.dumps({"question": prose, "answer": "x"}) + "\n")
    after = cleaned(session, documents, benchmark)
    assert before.id != after.id
    assert texts(after) == {}


def test_a_benchmark_whose_file_name_is_not_utf8(
    session: Session, make_documents: MakeDocuments, benchmark: str, prose: str
) -> None:
    path, _, fields = benchmark.rpartition(":")
    renamed = Path(path).rename(Path(path).with_name(os.fsdecode(b"qu\xedz.jsonl")))
    made = cleaned(session, make_documents({"a": prose}), f"{renamed}:{fields}")
    assert texts(made) == {"a": prose}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "quiz.jsonl:4: not JSON"),
        ("[1]", "quiz.jsonl:4: not a JSON object"),
        ('{"question": "x"}', "quiz.jsonl:4: the item has no field 'answer'"),
        ('{"question": "x", "answer": 3}', "quiz.jsonl:4: 'answer' is neither a string nor a list"),
    ],
)
def test_a_broken_benchmark_is_named_with_its_line(
    session: Session, make_documents: MakeDocuments, benchmark: str, prose: str, line: str, message: str
) -> None:
    path = Path(benchmark.rpartition(":")[0])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError) as error:
        cleaned(session, make_documents({"a": prose}), benchmark)
    assert message in str(error.value)


def test_invalid_benchmarks_are_refused(
    session: Session, make_documents: MakeDocuments, benchmark: str, prose: str, tmp_path: Path
) -> None:
    documents = make_documents({"a": prose})
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    with pytest.raises(InputError, match="has no items"):
        cleaned(session, documents, f"{path}:text")
    path.write_text('{"text": "Yes."}\n')
    with pytest.raises(InputError, match="no item is long enough"):
        cleaned(session, documents, f"{path}:text")
    with pytest.raises(InputError, match="no such file"):
        cleaned(session, documents, f"{tmp_path}/absent.jsonl:text")
    with pytest.raises(InputError, match="no documents"):
        cleaned(session, make_documents({}), benchmark)
    for wrong in ("quiz.jsonl", ":text", "quiz.jsonl:", "=quiz.jsonl:text"):
        with pytest.raises(ConfigError, match="is not FILE:FIELD"):
            cleaned(session, documents, wrong)


def test_a_damaged_shard_is_named(session: Session, make_documents: MakeDocuments, benchmark: str, prose: str) -> None:
    documents = make_documents({"a": prose})
    shard = document_shards(documents)[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(IntegrityError):
        cleaned(session, documents, benchmark)


def test_an_item_of_common_words_is_matched_as_a_whole(
    session: Session, make_documents: MakeDocuments, tmp_path: Path, prose: str
) -> None:
    path = tmp_path / "code.jsonl"
    code = "x = 1 if x > 2 else x if x > 3 else 4 or x + 5 - x * 6 / 7"
    path.write_text(json.dumps({"code": code}) + "\n")
    documents = make_documents({"all": embed(code.replace(" ", "\n"), prose), "half": embed(code[:-8], prose)})
    artifact = cleaned(session, documents, f"{path}:code")
    assert list(texts(artifact)) == ["half"]
    assert artifact.manifest.counts["dropped"] == {"benchmark_whole": 1}
