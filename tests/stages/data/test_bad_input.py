"""Hostile input for the data stages: bounded in time and memory, counted and named, no errors in later stages."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import StageConfig
from longcat.pipeline.documents import Document, document_shards, read_documents, shard_name, write_documents
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.inputs import InputFile
from longcat.stages.data.extract.reader import read_file
from longcat.stages.data.extract.records import Problem

LARGE = 200 << 20
HEAD = b"WARC/1.0\r\nWARC-Type: %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def bounded(megabytes: float, seconds: float) -> Iterator[None]:
    """Fail if the block uses more additional memory or more CPU time of this process."""
    began = time.process_time()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < megabytes * 1e6
    assert time.process_time() - began < seconds


def sparse(path: Path, *parts: bytes | int) -> None:
    """Make a file of these parts; a number is a count of zero bytes, which use no disk space."""
    with path.open("wb") as stream:
        for part in parts:
            if isinstance(part, bytes):
                stream.write(part)
            else:
                stream.seek(part, 1)
        stream.truncate()


def read(path: Path, form: str) -> list[Any]:
    return list(read_file(InputFile(path, path.name, form), ExtractConfig(), Counter()))


@pytest.mark.parametrize(("name", "form"), [("a.html", "html"), ("a.ipynb", "notebook"), ("a.txt", "text")])
def test_a_file_of_200_mb_is_not_kept_in_memory(tmp_path: Path, name: str, form: str) -> None:
    sparse(tmp_path / name, b"<html>", LARGE)
    with bounded(64, 10):
        (problem,) = read(tmp_path / name, form)
    assert (problem.reason, problem.place) == ("too_large", {"offset": 0})


@pytest.mark.parametrize("kind", [b"response", b"metadata"])
def test_a_page_of_200_mb_in_a_crawl_is_skipped(tmp_path: Path, kind: bytes) -> None:
    page = HEAD % (b"resource", 9) + b"<p>ok</p>" + b"\r\n\r\n"
    sparse(tmp_path / "a.warc", HEAD % (kind, LARGE), LARGE, b"\r\n\r\n", page)
    with bounded(64, 20):
        items = read(tmp_path / "a.warc", "warc")
    assert [item.reason if isinstance(item, Problem) else item.content for item in items] == [
        *(["too_large"] if kind == b"response" else []),
        b"<p>ok</p>",
    ]


def test_a_line_of_200_mb_is_skipped(tmp_path: Path) -> None:
    sparse(tmp_path / "a.jsonl", b'{"text": "first"}\n{"text": "', LARGE, b'"}\n{"text": "last"}\n')
    with bounded(64, 20):
        items = read(tmp_path / "a.jsonl", "jsonl")
    assert [item.reason if isinstance(item, Problem) else item.content for item in items] == [
        "first",
        "too_large",
        "last",
    ]


def test_a_table_of_a_million_rows_gives_text_in_bounded_time(tmp_path: Path, session: Session) -> None:
    """A page of 9 MB, compressed to 40 kB: read, parsed and written as plain text, or dropped with a reason."""
    page = b"<html><body><table>" + b"<tr><td>1" * 1_000_000 + b"</table><p>The end.</p></body></html>"
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "a.html.gz").write_bytes(gzip.compress(page, 1, mtime=0))
    (folder / "b.html").write_bytes(b"<p>the next page</p>")
    config = {"input": [str(folder)], "max_page_seconds": 10}
    began = time.process_time()
    made = run_stage(session, "data.extract", config).artifact
    assert time.process_time() - began < 20
    (shard,) = document_shards(made)
    documents = list(read_documents(shard))
    assert documents[-1].text == "the next page"
    if len(documents) == 2:
        assert documents[0].metadata["extraction_fallback"] in ("bytes", "tags", "time")
        assert documents[0].text.count("\n") > 900_000
    else:
        assert made.manifest.counts["dropped"] == {"timeout": 1}


class _Odd(StageConfig):
    texts: tuple[str, ...] = Field(description="Texts of the documents.")


ODD = {
    "empty": "",
    "blank": " \n\t\n",
    "nul": "\0 nul \0\0 bytes " * 30,
    "controls": "".join(map(chr, range(1, 32))) * 20,
    "long": "a" * 300_000,
    "words": "x " * 100_000,
    "lines": "\n" * 100_000 + "end",
    "marks": "\u0301" * 5000,
    "directions": "\u202e\ufeff\u200b" * 500,
    "astral": "\U0001f600\U00020000" * 2000,
    "fences": "```" * 20_000,
    "rows": "| 1 | 2 |\n" * 50_000,
    "end token": "</longcat_s>" * 50,
}


@stage("test.odd.documents", revision=1, inputs={}, output="documents")
def _write(context: Context[_Odd]) -> Result:
    """An empty shard, the texts, an empty shard, the texts again with the same ids, an empty shard."""
    documents = [Document(str(number), text, "test") for number, text in enumerate(context.config.texts)]
    for number, shard in enumerate(([], documents, [], documents, [])):
        write_documents(context.output / shard_name(number), shard)
    return Result({"documents_out": 2 * len(documents)})


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Artifact, Artifact]:
    """Unusual documents between empty shards, and a tokenizer trained on them."""
    from longcat.pipeline.engine import LocalEngine
    from longcat.pipeline.store import Store

    session = Session(Store(tmp_path_factory.mktemp("odd") / "store"), engine=LocalEngine(workers=1))
    documents = run_stage(session, "test.odd.documents", {"texts": list(ODD.values())}).artifact
    began = time.process_time()
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 290}, {"documents": documents}).artifact
    assert time.process_time() - began < 20
    return session, documents, tokenizer


@pytest.mark.parametrize("name", ["data.filter", "data.dedup", "data.decontaminate", "data.score", "data.pack"])
def test_odd_documents_equal_ids_and_empty_shards_are_accounted_for(
    odd: tuple[Session, Artifact, Artifact], tmp_path: Path, name: str
) -> None:
    session, documents, tokenizer = odd
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"question": " ".join(f"word{number}" for number in range(40))}) + "\n")
    config = {
        "data.filter": {"language": {"allowed": [], "min_probability": None}},
        "data.decontaminate": {"benchmarks": [f"{items}:question"]},
    }
    inputs = {"documents": documents} | ({"tokenizer": tokenizer} if name == "data.pack" else {})
    began = time.process_time()
    made = run_stage(session, name, config.get(name, {}), inputs).artifact
    assert time.process_time() - began < 30
    counts = made.manifest.counts
    assert counts["documents_in"] == 2 * len(ODD)
    assert counts["documents_in"] == counts["documents_out"] + sum(counts["dropped"].values())
    if made.kind == "documents":
        shards = document_shards(made)
        assert len(shards) == 5
        assert sum(1 for shard in shards for _ in read_documents(shard)) == counts["documents_out"]
