"""Lines that stand on many documents of one site are taken out; whatever else there is stays."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.parquet as pq

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

MakeDocuments = Callable[..., Artifact]
OFF = {name: {"enabled": False} for name in ("language", "gopher_quality", "gopher_repetition", "c4", "fineweb")}
BANNER = "Subscribe to our letter and read more."
CODE = "```\nimport numpy\n```"


def page(number: int, host: str = "a.org") -> Document:
    own = f"Page {number} tells of the number {number}."
    return Document(f"{host}-{number}", f"{BANNER}\n\n# See also\n\n{own}\n{CODE}", "s", url=f"https://{host}/{number}")


def pages() -> list[list[Document]]:
    first = [page(number) for number in range(4)]
    second = [page(number) for number in range(4, 8)]
    second += [page(1, "b.org"), Document("no address", f"{BANNER}\nText of its own.", "s")]
    second += [
        Document("only banner", BANNER, "s", url="https://A.org/9"),
        Document("odd", BANNER, "s", url="http://["),
    ]
    return [first, [], second]


def texts(artifact: Artifact) -> dict[str, str]:
    return {d.id: d.text for shard in document_shards(artifact) for d in read_documents(shard)}


def test_lines_of_a_site_are_taken_out(session: Session, make_documents: MakeDocuments) -> None:
    documents = make_documents(*pages())
    config = {**OFF, "sites": {"enabled": True, "min_documents": 5}}
    artifact = run_stage(session, "data.filter", config, {"documents": documents}).artifact
    found = texts(artifact)
    before = texts(documents)
    assert found["a.org-3"] == f"# See also\n\nPage 3 tells of the number 3.\n{CODE}"
    assert all(found[name] == before[name] for name in ("b.org-1", "no address", "odd"))
    assert artifact.manifest.counts["dropped"] == {"empty": 1}
    metrics = artifact.manifest.metrics
    assert (metrics["site_lines_found"], metrics["site_lines_removed"], metrics["documents_edited"]) == (1, 8, 8)
    rows = pq.read_table(artifact.file("attributes-00002.parquet")).to_pylist()
    assert [row["sites.lines_removed"] for row in rows] == [1, 1, 1, 1, 0, 0, 1, 0]


def test_a_line_on_too_few_documents_stays(session: Session, make_documents: MakeDocuments) -> None:
    documents = make_documents(*pages())
    for rules in ({"enabled": False}, {"enabled": True, "min_documents": 10}):
        artifact = run_stage(session, "data.filter", {**OFF, "sites": rules}, {"documents": documents}).artifact
        assert texts(artifact) == texts(documents)
    spread = [Document(str(n), f"{BANNER if n < 5 else ''}\nNumber {n}.", "s", url="http://c.org") for n in range(50)]
    rules = {"enabled": True, "min_documents": 5, "min_share": 0.3}
    artifact = run_stage(
        session, "data.filter", {**OFF, "sites": rules}, {"documents": make_documents(spread)}
    ).artifact
    assert texts(artifact)["0"].startswith(BANNER)


def test_the_bytes_do_not_depend_on_the_workers(session: Session, make_documents: MakeDocuments) -> None:
    config = {**OFF, "sites": {"enabled": True}}
    one = run_stage(session, "data.filter", config, {"documents": make_documents(*pages())}).artifact
    other = Session(Store(session.store.root.with_name("other")), engine=LocalEngine(workers=2))
    two = run_stage(other, "data.filter", config, {"documents": make_documents(*pages(), into=other)}).artifact
    assert one.manifest.files == two.manifest.files
