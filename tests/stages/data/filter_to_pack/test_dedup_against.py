"""Duplicates of earlier corpora go; the corpora themselves are neither written nor counted."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import InputError
from longcat.pipeline.lineage import lineage
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

MakeDocuments = Callable[..., Artifact]
SMALL = {"memory_mib": 1}


def deduplicated(session: Session, new: Artifact, *against: Artifact, **config: object) -> Artifact:
    return run_stage(session, "data.dedup", config, {"documents": new, "against": against}).artifact


def texts(artifact: Artifact) -> dict[str, str]:
    return {d.id: d.text for shard in document_shards(artifact) for d in read_documents(shard)}


def rows(artifact: Artifact) -> list[tuple[object, ...]]:
    found = pq.read_table(artifact.file("duplicates.parquet")).to_pylist()
    return [(row["dropped_id"], row["kept_id"], row["kind"], row.get("against")) for row in found]


def words(seed: int, count: int = 150) -> str:
    generator = random.Random(seed)
    return " ".join(f"w{generator.randrange(5000)}" for _ in range(count))


def edited(text: str, seed: int, share: float) -> str:
    generator = random.Random(seed)
    return " ".join(f"x{generator.randrange(9999)}" if generator.random() < share else word for word in text.split())


def test_duplicates_of_earlier_corpora_go(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    # A longer document of higher quality is still the one dropped: the earlier corpus is published already.
    best = Document("near", prose + " Indeed so it is.", "s", metadata={"quality": 9})
    new = make_documents([Document("exact", words(1), "s"), best], {"own": words(2), "own again": words(2), "x": "new"})
    old = make_documents({"old": words(1), "x": "old"})
    older = make_documents({"older": prose}, {"more": words(9)})
    made = deduplicated(session, new, old, older)
    assert texts(made) == {"own": words(2), "x": "new"}
    assert rows(made) == [
        ("exact", "old", "exact", old.id),
        ("near", "older", "near", older.id),
        ("own again", "own", "exact", None),
    ]
    assert made.manifest.counts == {
        "documents_in": 5,
        "documents_out": 2,
        "dropped": {"exact_duplicate": 1, "exact_duplicate_of_against": 1, "near_duplicate_of_against": 1},
    }
    assert made.manifest.metrics["documents_against"] == 4
    assert len(document_shards(made)) == 2
    assert [(node["role"], node["id"]) for node in lineage(session.store, made)["inputs"]] == [
        ("documents", new.id),
        ("against", old.id),
        ("against", older.id),
    ]


def test_a_whole_group_goes_with_one_earlier_document(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    new = make_documents({"a": prose, "b": prose, "c": prose.replace("herons", "storks")})
    made = deduplicated(session, new, make_documents({"a": prose}))
    assert texts(made) == {}
    assert made.manifest.counts["dropped"] == {"exact_duplicate_of_against": 2, "near_duplicate_of_against": 1}
    assert {row[1] for row in rows(made)} == {"a"}


def test_duplicates_within_the_earlier_corpus_are_not_counted(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    old = make_documents({"a": prose, "b": prose, "c": prose + " Indeed."})
    made = deduplicated(session, make_documents({"new": words(3)}), old)
    assert texts(made) == {"new": words(3)}
    assert (rows(made), made.manifest.counts["dropped"]) == ([], {})


def test_without_near_only_exact_ones_go(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    new = make_documents({"same": prose.replace("\n", "  "), "near": prose.replace("herons", "storks")})
    made = deduplicated(session, new, make_documents({"old": prose}), near=False)
    assert list(texts(made)) == ["near"]


def corpus() -> tuple[list[list[Document]], list[list[Document]]]:
    """New and earlier documents: each new one is an edit of an earlier or of another new one, or neither."""
    old = [Document(f"old{n}", words(n), "s") for n in range(40)]
    rates = (0.0, 0.01, 0.02, 0.3)
    new = [Document(f"edit{n}", edited(words(n), n, rates[n % 4]), "s") for n in range(0, 60)]
    new += [Document(f"twice{n}", edited(words(n), -n, 0.01), "s") for n in range(40, 60)]
    return [new[:25], [], new[25:]], [old[:7], old[7:]]


def test_the_same_go_as_when_the_earlier_ones_are_best(session: Session, make_documents: MakeDocuments) -> None:
    new, old = corpus()
    made = deduplicated(session, make_documents(*new), make_documents(*old))
    best = [[Document(d.id, d.text, "s", metadata={"quality": 1}) for d in shard] for shard in old]
    together = deduplicated(session, make_documents(*new, *best))
    kept = {name: text for name, text in texts(together).items() if not name.startswith("old")}
    assert texts(made) == kept
    assert 15 <= len(kept) <= 45
    assert {row[:3] for row in rows(made)} == {row[:3] for row in rows(together)}


def test_workers_memory_and_shards_change_nothing(
    tmp_path: Path, make_documents: MakeDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = corpus()
    found = []
    for workers, memory in ((1, 512), (2, 1)):
        session = Session(Store(tmp_path / str(workers)), LocalEngine(workers))
        monkeypatch.setattr("longcat.stages.data.dedup.runs.BYTES_AN_ENTRY", 64 if workers == 1 else 1 << 16)
        made = deduplicated(
            session,
            make_documents(*new, into=session),
            make_documents(*old, into=session),
            memory_mib=memory,
            paragraphs={"enabled": True},
        )
        found.append((made.id, made.manifest.files, made.manifest.counts))
    assert found[0] == found[1]
    session = Session(Store(tmp_path / "1"), LocalEngine(1))
    mixed = deduplicated(session, make_documents(*new, into=session), make_documents([*chain(*old)], into=session))
    assert {row[:3] for row in rows(mixed)} == {row[:3] for row in rows(made)}


def page(name: str, *paragraphs: str) -> Document:
    return Document(name, "\n\n".join(paragraphs), "s", url=f"https://a.org/{name}")


@pytest.mark.parametrize(
    ("new_pages", "old_pages", "clean", "gone"),
    [(2, 2, False, True), (2, 1, False, False), (4, 200, True, True), (3, 200, True, False)],
    ids=["together", "too few", "alone among clean ones", "too few among clean ones"],
)
def test_paragraphs_count_with_those_of_earlier_corpora(
    session: Session, make_documents: MakeDocuments, new_pages: int, old_pages: int, clean: bool, gone: bool
) -> None:
    new = [page(f"n{n}", words(n, 30), "All rights reserved.") for n in range(new_pages)]
    old = [page(f"o{n}", words(1000 + n, 30), *([] if clean else ["All rights reserved."])) for n in range(old_pages)]
    config = {"near": False, "paragraphs": {"enabled": True, "min_documents": 4, "min_share": 0.5}}
    made = deduplicated(session, make_documents(new), make_documents(old), **config)
    assert texts(made) == {d.id: words(n, 30) if gone else d.text for n, d in enumerate(new)}
    report = pq.read_table(made.file("paragraphs.parquet")).to_pylist()
    expected = {"group": "host a.org", "documents": max(4, new_pages), "text": "All rights reserved."}
    assert report == ([expected] if gone else [])


def test_without_documents_the_input_is_named(session: Session, make_documents: MakeDocuments) -> None:
    with pytest.raises(InputError, match="there are no documents to deduplicate"):
        deduplicated(session, make_documents([]), make_documents({"a": "text"}))


def test_an_earlier_corpus_without_documents_changes_nothing(
    session: Session, make_documents: MakeDocuments, prose: str
) -> None:
    made = deduplicated(session, make_documents({"a": prose, "b": prose}), make_documents([]))
    assert (texts(made), rows(made)) == ({"a": prose}, [("b", "a", "exact", None)])
