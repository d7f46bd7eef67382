"""The stage `data.dedup` as a whole: who stays, what is reported, and that nothing but the content decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain

import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

MakeDocuments = Callable[..., Artifact]


def deduplicated(session: Session, documents: Artifact, **config: object) -> Artifact:
    return run_stage(session, "data.dedup", config, {"documents": documents}).artifact


def ids(artifact: Artifact) -> list[list[str]]:
    return [[document.id for document in read_documents(shard)] for shard in document_shards(artifact)]


def duplicates(artifact: Artifact) -> list[dict[str, object]]:
    return pq.read_table(artifact.file("duplicates.parquet")).to_pylist()


@pytest.fixture
def planted(prose: str) -> list[list[Document]]:
    generator = random.Random(1)
    other = " ".join(f"w{generator.randrange(2000)}" for _ in range(150))
    return [
        [Document("z", prose, "s"), Document("near", prose.replace("herons", "storks"), "s")],
        [Document("a", prose.replace("\n", "  "), "s"), Document("other", other, "s"), Document("one", "Hello.", "s")],
        [Document("long", prose + " Indeed so.", "s"), Document("two", "Hello!", "s")],
    ]


def test_one_of_each_group_stays(
    session: Session, make_documents: MakeDocuments, planted: list[list[Document]]
) -> None:
    artifact = deduplicated(session, make_documents(*planted))
    # prose.replace("\n", "  ") is longer by six blanks than "z" and the same text; "long" is longer still.
    assert ids(artifact) == [[], ["other", "one"], ["long"]]
    rows = duplicates(artifact)
    assert [(row["dropped_id"], row["kept_id"], row["kind"]) for row in rows] == [
        ("a", "long", "near"),
        ("near", "long", "near"),
        ("two", "one", "near"),
        ("z", "long", "near"),
    ]
    assert all(0.7 <= row["similarity"] <= 1 for row in rows)
    assert artifact.manifest.counts == {"documents_in": 7, "documents_out": 3, "dropped": {"near_duplicate": 4}}


def test_exact_duplicates_alone(session: Session, make_documents: MakeDocuments, planted: list[list[Document]]) -> None:
    artifact = deduplicated(session, make_documents(*planted), near=False)
    assert ids(artifact) == [["near"], ["a", "other", "one"], ["long", "two"]]
    assert duplicates(artifact) == [{"dropped_id": "z", "kept_id": "a", "kind": "exact", "similarity": 1.0}]
    assert artifact.manifest.counts["dropped"] == {"exact_duplicate": 1}


def test_of_equal_texts_the_smallest_id_stays(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    documents = make_documents([Document("b", prose, "s")], [Document("a", prose, "s")], [Document("c", prose, "s")])
    assert ids(deduplicated(session, documents)) == [[], ["a"], []]


def test_what_stays_is_not_changed(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    document = Document("a", prose, "s", url="http://x", language="en", metadata={"n": [1, None]})
    artifact = deduplicated(session, make_documents([document, Document("b", prose[:-1], "s")]))
    assert list(read_documents(document_shards(artifact)[0])) == [document]


def test_the_order_of_the_shards_decides_nothing(
    session: Session, make_documents: MakeDocuments, planted: list[list[Document]]
) -> None:
    forward = deduplicated(session, make_documents(*planted))
    backward = deduplicated(session, make_documents(*[shard[::-1] for shard in planted[::-1]]))
    assert sorted(chain(*ids(forward))) == sorted(chain(*ids(backward)))
    assert forward.file("duplicates.parquet").read_bytes() == backward.file("duplicates.parquet").read_bytes()


def test_the_bytes_do_not_depend_on_the_workers(
    session: Session, make_documents: MakeDocuments, planted: list[list[Document]]
) -> None:
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=2))
    one = deduplicated(session, make_documents(*planted))
    two = deduplicated(other, make_documents(*planted, into=other))
    assert two.path != one.path
    assert two.manifest.files == one.manifest.files


def test_another_seed_gives_other_signatures_and_the_same_groups(
    session: Session, make_documents: MakeDocuments, planted: list[list[Document]]
) -> None:
    documents = make_documents(*planted)
    assert ids(deduplicated(session, documents, seed=5)) == ids(deduplicated(session, documents))


def test_without_duplicates_the_report_is_empty(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    artifact = deduplicated(session, make_documents([Document("a", prose, "s")]))
    assert duplicates(artifact) == []
    assert artifact.manifest.counts == {"documents_in": 1, "documents_out": 1, "dropped": {}}


def test_an_input_without_documents_is_refused(session: Session, make_documents: MakeDocuments) -> None:
    with pytest.raises(InputError, match="no documents"):
        deduplicated(session, make_documents([]))


def test_a_damaged_shard_is_named(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    documents = make_documents([Document("a", prose, "s")])
    shard = document_shards(documents)[0]
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(IntegrityError):
        deduplicated(session, documents)


def test_documents_of_one_id_and_empty_shards_are_told_apart(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    other = " ".join(f"w{number}" for number in range(60))
    documents = make_documents(
        [], [Document("a", prose, "s"), Document("a", other, "s")], [], [Document("a", prose + "\n", "s")]
    )
    artifact = deduplicated(session, documents)
    assert [[document.text for document in read_documents(shard)] for shard in document_shards(artifact)] == [
        [],
        [other],
        [],
        [prose + "\n"],
    ]
    assert duplicates(artifact) == [{"dropped_id": "a", "kept_id": "a", "kind": "exact", "similarity": 1.0}]


def test_odd_texts_go_through(session: Session, make_documents: MakeDocuments) -> None:
    texts = ["", " \n", "\0", "\0 a", "?", "第" * 3000, "a" * 300_000, "\u0301", "x " * 200_000, "\u202e\ufeff"]
    artifact = deduplicated(session, make_documents([Document(str(n), text, "s") for n, text in enumerate(texts)]))
    assert {(row["dropped_id"], row["kept_id"]) for row in duplicates(artifact)} == {("0", "1")}


def test_the_best_stays_even_where_it_is_short(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    documents = make_documents(
        [Document("a", prose + " Indeed so.", "s"), Document("b", prose, "s", metadata={"score": 0.5})],
        [Document("c", prose + " So.", "s", metadata={"score": 0.4})],
    )
    assert ids(deduplicated(session, documents, quality_key="score")) == [["b"], []]
    assert ids(deduplicated(session, documents)) == [["a"], []]


def test_the_memory_setting_changes_no_bytes(
    session: Session, make_documents: MakeDocuments, planted: list[list[Document]], monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = make_documents(*planted)
    plenty = deduplicated(session, documents)
    session.store.remove(plenty)
    monkeypatch.setattr("longcat.stages.data.dedup.runs.BYTES_AN_ENTRY", 1 << 18)
    monkeypatch.setattr("longcat.stages.data.dedup.signature_pass.BYTES_A_DOCUMENT", 1 << 20)
    monkeypatch.setattr("longcat.stages.data.dedup.signature_pass.BATCH_DOCUMENTS", 1)
    scarce = deduplicated(session, documents, memory_mib=1)
    assert scarce.path == plenty.path
    assert scarce.manifest.files == plenty.manifest.files
