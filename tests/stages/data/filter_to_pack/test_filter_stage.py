"""The stage `data.filter` as a whole: what it writes, counts and refuses."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data.text.language import MODEL_VARIABLE, LanguageIdentifier

NO_LANGUAGE = {"language": {"enabled": False}}
MakeDocuments = Callable[..., Artifact]


def filtered(session: Session, documents: Artifact, **config: object) -> Artifact:
    return run_stage(session, "data.filter", config or NO_LANGUAGE, {"documents": documents}).artifact


def corpus(prose: str) -> list[list[Document]]:
    lines = prose.split("\n")
    return [
        [Document("a", prose, "s"), Document("b", "too short", "s"), Document("c", "", "s")],
        [],
        [
            Document("d", f"{prose}\nMenu", "s", metadata={"keep": 1}),
            Document("e", prose + "\n{", "s"),
            Document("f", "\n".join([lines[0]] * 9), "s"),
        ],
    ]


def test_kept_documents_and_attributes_lie_side_by_side(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    artifact = filtered(session, make_documents(*corpus(prose)))
    kept = [[document.id for document in read_documents(shard)] for shard in document_shards(artifact)]
    assert kept == [["a"], [], ["d", "e"]]
    rows = [pq.read_table(artifact.file(f"attributes-{number:05d}.parquet")).to_pylist() for number in range(3)]
    assert [[row["id"] for row in part] for part in rows] == [["a", "b", "c"], [], ["d", "e", "f"]]
    assert [row["kept"] for part in rows for row in part] == [True, False, False, True, True, False]
    assert [row["reason"] for row in rows[0]] == [None, "gopher_quality.min_words", "empty"]
    assert rows[0][1]["gopher_quality.words"] == 2
    assert rows[0][2]["gopher_quality.words"] is None


def test_every_document_is_accounted_for(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    counts = filtered(session, make_documents(*corpus(prose))).manifest.counts
    assert counts == {
        "documents_in": 6,
        "documents_out": 3,
        "dropped": {
            "empty": 1,
            "gopher_quality.min_words": 1,
            "gopher_repetition.max_duplicate_line_fraction": 1,
        },
    }
    assert counts["documents_in"] == counts["documents_out"] + sum(counts["dropped"].values())


def test_the_text_is_cleaned_and_the_rest_kept(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    artifact = filtered(session, make_documents(*corpus(prose)))
    first, second = read_documents(document_shards(artifact)[2])
    assert (first.text, first.metadata) == (prose, {"keep": 1})
    assert second.text == prose
    assert artifact.manifest.metrics["documents_edited"] == 2
    assert artifact.manifest.metrics["lines_removed"] == 2


def test_the_language_is_written_to_the_document(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    probability = LanguageIdentifier().predict(prose)[1]
    code = {"kind": "code"}
    documents = make_documents([Document("a", prose, "s"), Document("b", "x = 1\ny = 2\n", "s", metadata=code)])
    artifact = filtered(session, documents, language={"allowed": ["en"]})
    assert [document.language for document in read_documents(document_shards(artifact)[0])] == ["en", None]
    row = pq.read_table(artifact.file("attributes-00000.parquet")).to_pylist()[0]
    assert (row["language"], row["language.probability"]) == ("en", probability)


def test_the_bytes_do_not_depend_on_the_workers(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    one = filtered(session, make_documents(*corpus(prose)))
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=2))
    two = filtered(other, make_documents(*corpus(prose), into=other))
    assert two.path != one.path
    assert two.manifest.files == one.manifest.files


def test_without_the_language_model_the_remedy_is_told(
    session: Session, make_documents: MakeDocuments, prose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODEL_VARIABLE, str(session.store.root / "none"))
    with pytest.raises(InputError, match=f"unset {MODEL_VARIABLE}"):
        filtered(session, make_documents([Document("a", prose, "s")]), language={})


def test_an_input_without_documents_is_refused(session: Session, make_documents: MakeDocuments) -> None:
    with pytest.raises(InputError, match="no documents"):
        filtered(session, make_documents([]))


def test_a_damaged_shard_is_named(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    documents = make_documents([Document("a", prose, "s")])
    shard = document_shards(documents)[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(IntegrityError, match="damaged"):
        filtered(session, documents)


def test_a_mistyped_setting_is_refused(session: Session, make_documents: MakeDocuments) -> None:
    with pytest.raises(ConfigError, match="gopher_qualty"):
        filtered(session, make_documents([Document("a", "x", "s")]), gopher_qualty={})
