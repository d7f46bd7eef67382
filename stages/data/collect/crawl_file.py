"""WARC files: one response record per page, each a separate gzip member, with deterministic bytes."""

from __future__ import annotations

import io
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from longcat.pipeline.files import atomic_path, atomic_write, canonical_json
from longcat.stages.data.collect.candidates import Candidate
from longcat.stages.data.collect.render import NoPageError, render

FAILURES = "failures.jsonl"


@dataclass(frozen=True)
class CrawledPage:
    """Page data of a record; `date` is UTC, ISO 8601."""

    url: str
    date: str
    status: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class CrawlWriter:
    """Writes response records to a stream."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._writer = WARCWriter(stream, gzip=True, warc_version="1.1")

    def write(self, page: CrawledPage) -> None:
        """Append one response record; its id is derived from URL, date and body."""
        seed = f"{page.url}\n{page.date}\n{sha256(page.body).hexdigest()}"
        record = self._writer.create_warc_record(
            page.url,
            "response",
            payload=io.BytesIO(page.body),
            http_headers=StatusAndHeaders(page.status, list(page.headers), protocol="HTTP/1.1"),
            warc_headers_dict={
                "WARC-Record-ID": f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}>",
                "WARC-Date": page.date,
            },
        )
        self._writer.write_record(record)


@dataclass(frozen=True)
class CrawlTask:
    """Task: one WARC file from local candidates."""

    path: str
    candidates: tuple[Candidate, ...]
    cpu_seconds: int
    max_page_bytes: int


def write_crawl_file(task: CrawlTask) -> dict[str, Any]:
    """Render the candidates of one file and write it; failures are returned, not raised."""
    failures: list[dict[str, str]] = []
    kinds: Counter[str] = Counter()
    total = 0
    with atomic_path(Path(task.path)) as aside, aside.open("wb") as stream:
        writer = CrawlWriter(stream)
        for candidate in task.candidates:
            try:
                content_type, body = render(candidate, task.cpu_seconds, task.max_page_bytes)
            except NoPageError as reason:
                failures.append({"url": candidate.url, "reason": str(reason)})
                continue
            headers = (("Content-Type", content_type), ("Content-Length", str(len(body))))
            writer.write(CrawledPage(candidate.url, _date(candidate.file), "200 OK", headers, body))
            kinds[candidate.kind] += 1
            total += len(body)
    return {"pages": sum(kinds.values()), "bytes": total, "kinds": dict(kinds), "failures": failures}


def _date(file: str) -> str:
    """Modification date of the page's source: the same on every run."""
    try:
        seconds = int(Path(file).stat().st_mtime)
    except (FileNotFoundError, NotADirectoryError):
        seconds = 0
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def failures_file(folder: Path, failures: Iterable[Mapping[str, Any]]) -> None:
    """Write failed URLs with reasons, one per line."""
    atomic_write(folder / FAILURES, b"".join(canonical_json(dict(failure)) + b"\n" for failure in failures))
