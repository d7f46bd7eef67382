"""Paragraphs that the documents of a host repeat go, and the report says which and how many."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data.dedup.config import Scope

MakeDocuments = Callable[..., Artifact]
NOTICE = "All rights reserved.\nAsk first."


def page(host: str, name: str, *paragraphs: str) -> Document:
    return Document(f"{host}/{name}", "\n\n".join(paragraphs), host, url=f"https://{host}/{name}")


def site() -> list[list[Document]]:
    """A host of six pages with a notice on five of them, one of which is nothing else; another host quotes it once."""
    one = [page("a.org", f"{n}", f"Page number {n} on its own.", NOTICE.replace("\n", " " * n)) for n in range(1, 5)]
    return [
        [*one[:2], page("a.org", "5", "Without.", "Without.", "Without.")],
        [*one[2:], page("a.org", "6", NOTICE, ""), page("b.org", "1", "Quoted:", NOTICE)],
    ]


def cleaned(session: Session, documents: Artifact, scope: Scope = "host", **config: object) -> Artifact:
    paragraphs = {"enabled": True, "min_documents": 3, "scope": scope, **config}
    given = {"near": False, "paragraphs": paragraphs}
    return run_stage(session, "data.dedup", given, {"documents": documents}).artifact


def texts(artifact: Artifact) -> dict[str, str]:
    shards = (read_documents(shard) for shard in document_shards(artifact))
    return {document.id: document.text for document in chain(*shards)}


def test_what_a_host_repeats_goes(session: Session, make_documents: MakeDocuments) -> None:
    artifact = cleaned(session, make_documents(*site()))
    assert texts(artifact) == {
        **{f"a.org/{n}": f"Page number {n} on its own." for n in range(1, 5)},
        "a.org/5": "Without.\n\nWithout.\n\nWithout.",
        "b.org/1": f"Quoted:\n\n{NOTICE}",
    }
    assert artifact.manifest.counts == {
        "documents_in": 7,
        "documents_out": 6,
        "dropped": {"repeated_paragraphs": 1},
    }
    assert artifact.manifest.metrics == {
        "paragraphs_repeated": 1,
        "paragraphs_removed": 5,
        "characters_removed": sum(len(NOTICE) - 1 + n for n in range(1, 5)) + len(NOTICE),
        "documents_changed": 5,
    }
    assert pq.read_table(artifact.file("paragraphs.parquet")).to_pylist() == [
        {"group": "host a.org", "documents": 5, "text": "All rights reserved. Ask first."}
    ]


def test_all_documents_may_be_one_group(session: Session, make_documents: MakeDocuments) -> None:
    artifact = cleaned(session, make_documents(*site()), scope="all")
    assert texts(artifact)["b.org/1"] == "Quoted:"
    assert pq.read_table(artifact.file("paragraphs.parquet"))["documents"].to_pylist() == [6]


@pytest.mark.parametrize(
    ("config", "changed"), [({"min_documents": 6}, 0), ({"min_share": 0.8}, 5), ({"min_share": 0.9}, 0)]
)
def test_what_is_too_rare_stays(
    session: Session, make_documents: MakeDocuments, config: dict[str, float], changed: int
) -> None:
    artifact = cleaned(session, make_documents(*site()), **config)
    assert artifact.manifest.metrics["documents_changed"] == changed


def test_dropped_documents_do_not_count(session: Session, make_documents: MakeDocuments) -> None:
    copies = [page("a.org", f"copy{n}", "The same page.", NOTICE) for n in range(5)]
    artifact = cleaned(session, make_documents(copies))
    assert texts(artifact) == {"a.org/copy0": f"The same page.\n\n{NOTICE}"}


def test_it_is_off_by_default(session: Session, make_documents: MakeDocuments) -> None:
    artifact = run_stage(session, "data.dedup", {}, {"documents": make_documents(*site())}).artifact
    assert NOTICE in texts(artifact)["b.org/1"]
    assert not (artifact.path / "paragraphs.parquet").exists()


def test_workers_and_memory_change_nothing(
    session: Session, make_documents: MakeDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cleaned(session, make_documents(*site()))
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=2))
    monkeypatch.setattr("longcat.stages.data.dedup.paragraphs.BYTES_AN_ENTRY", 1 << 27)
    assert cleaned(other, make_documents(*site(), into=other)).manifest.files == one.manifest.files
