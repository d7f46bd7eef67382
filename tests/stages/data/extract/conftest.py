"""Small crawls made by hand, and a short way to run the stage over files."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents

WORDS = ("stone", "river", "cloud", "engine", "garden", "letter", "window", "copper", "harbour", "signal")


def _record(
    number: int,
    body: bytes | None = None,
    *,
    content_type: str = "text/html; charset=utf-8",
    status: int = 200,
    http_headers: str = "",
    warc_type: str = "response",
    record_id: str | None = None,
) -> bytes:
    """One WARC record; without a body, a page of 200 words that says `page NUMBER`."""
    if body is None:
        words = " ".join(random.Random(number).choices(WORDS, k=200))
        body = f"<html><head><title>T{number}</title></head><body><p>page {number} {words}</p></body></html>".encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n{http_headers}\r\n".encode()
    block = head + body if warc_type == "response" else body
    block_type = "application/http; msgtype=response" if warc_type == "response" else content_type
    name = record_id or f"<urn:uuid:{number:08d}>"
    lines = [
        "WARC/1.1",
        f"WARC-Type: {warc_type}",
        f"WARC-Record-ID: {name}",
        f"WARC-Target-URI: http://site.example/{number}",
        "WARC-Date: 2024-01-02T03:04:05Z",
        f"Content-Type: {block_type}",
        f"Content-Length: {len(block)}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


@pytest.fixture
def record() -> Callable[..., bytes]:
    return _record


@pytest.fixture
def members() -> list[bytes]:
    """Eight records, each a gzip member of its own."""
    return [gzip.compress(_record(number), mtime=0) for number in range(8)]


class Extracted:
    """What came of a run: documents, problems and counts."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.documents: list[Document] = [d for shard in document_shards(artifact) for d in read_documents(shard)]
        lines = artifact.file("problems.jsonl").read_bytes().splitlines()
        self.problems: list[dict[str, Any]] = [orjson.loads(line) for line in lines]
        self.counts = artifact.manifest.counts
        self.metrics = artifact.manifest.metrics
        assert self.counts["documents_in"] == self.counts["documents_out"] + sum(self.counts["dropped"].values())
        assert self.counts["documents_out"] == len(self.documents)

    @property
    def pages(self) -> list[int]:
        """Numbers of the pages `record` made, in the order of the documents."""
        return [int(d.text.split()[1]) for d in self.documents]


@pytest.fixture
def extract(run_stage: Callable[..., Artifact]) -> Callable[..., Extracted]:
    """Run data.extract over paths."""

    def run(*paths: Path | str, **config: Any) -> Extracted:
        return Extracted(run_stage("data.extract", {"input": [str(path) for path in paths], **config}))

    return run


@pytest.fixture
def extract_bytes(tmp_path: Path, extract: Callable[..., Extracted]) -> Callable[..., Extracted]:
    """Run data.extract over one file with the given name and content."""

    def run(name: str, content: bytes, **config: Any) -> Extracted:
        path = tmp_path / name
        path.write_bytes(content)
        return extract(path, **config)

    return run
