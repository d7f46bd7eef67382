"""Inputs on web servers and in object stores: ranged reads, bounded retries, never mistaken for shorter files."""

from __future__ import annotations

import gzip
import io
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import longcat.pipeline.remote
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.errors import InputError
from longcat.pipeline.remote import RemoteFile, is_remote, remote_files
from longcat.pipeline.sources import fingerprint_paths

RunStage = Callable[..., Artifact]


class Server(ThreadingHTTPServer):
    """Server of files in ranges on 127.0.0.1; the first folder of a path selects its behaviour."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: Counter[str] = Counter()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        way, _, name = self.path.lstrip("/").partition("/")
        self.server.asked[way] += 1
        number = self.server.asked[way]
        if way == "redirects":
            left, _, rest = name.partition("/")
            target = f"/redirects/{int(left) - 1}/{rest}" if int(left) > 1 else f"/files/{rest}"
            self._answer(302, {"Location": target})
        elif way == "away":
            self._answer(302, {"Location": f"http://localhost:{self.server.server_port}/files/{name}"})
        elif way == "broken":
            self._answer(302, {"Location": "http://[::1"})
        elif way == "ftp":
            self._answer(302, {"Location": "ftp://127.0.0.1/x"})
        elif way == "down" or (way == "flaky" and number % 3) or (way == "dies" and number > 2):
            self._answer(503, {})
        elif name not in self.server.files:
            self._answer(404, {})
        elif way == "whole":
            self._answer(200, {"ETag": '"1"'}, self.server.files[name])
        else:
            self._range(way, number, self.server.files[name])

    def _range(self, way: str, number: int, content: bytes) -> None:
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start, end = int(first), min(int(last) + 1, len(content))
        headers = {} if way == "unversioned" else {"ETag": f'"{number if way == "changing" else 1}"'}
        if start >= len(content):
            self._answer(416, {**headers, "Content-Range": f"bytes */{len(content)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = content[start:end]
        if way == "more":
            body = content[start : end + 5]
        if way == "cut" and number % 2 == 0:
            self._answer(206, headers, body, sent=len(body) // 2)
        else:
            self._answer(206, headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"", sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = sent is not None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(longcat.pipeline.remote, "FIRST_WAIT_SECONDS", 0.0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def crawl(pages: int) -> bytes:
    """A WARC with the given number of pages, each a gzip member."""
    members = []
    for number in range(pages):
        body = f"<html><body><p>page {number} {'stone river cloud ' * 50}</p></body></html>".encode()
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
        head = (
            f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:08d}>\r\n"
            f"WARC-Target-URI: http://site.example/{number}\r\nWARC-Date: 2024-01-02T03:04:05Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
        )
        members.append(gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0))
    return b"".join(members)


def documents(artifact: Artifact) -> list[Document]:
    return [document for shard in document_shards(artifact) for document in read_documents(shard)]


def test_a_crawl_on_a_server_is_read_like_a_local_one(
    server: Server, run_stage: RunStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longcat.pipeline.remote, "BLOCK_BYTES", 1000)
    content = server.files["crawl.warc.gz"] = crawl(20)
    (tmp_path / "crawl.warc.gz").write_bytes(content)
    near = documents(run_stage("data.extract", {"input": [str(tmp_path / "crawl.warc.gz")]}))
    url = server.url("files/crawl.warc.gz")
    artifact = run_stage("data.extract", {"input": [url]})
    far = documents(artifact)
    assert [document.text for document in far] == [document.text for document in near]
    assert len(far) == 20
    assert {document.source for document in far} == {url}
    assert list(artifact.manifest.sources) == [url]
    assert server.asked["files"] > len(content) // 1000


def test_damage_in_a_remote_crawl_is_skipped(server: Server, run_stage: RunStage) -> None:
    content = bytearray(crawl(8))
    content[len(content) // 2] ^= 0xFF
    server.files["crawl.warc.gz"] = bytes(content)
    counts = run_stage("data.extract", {"input": [server.url("files/crawl.warc.gz")]}).manifest.counts
    assert (counts["documents_out"], counts["dropped"]) == (7, {"corrupt_gzip": 1})


def test_remote_parquet_and_text(server: Server, run_stage: RunStage) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {number} of a table" for number in range(600)]}), stream)
    server.files |= {"table.parquet": stream.getvalue(), "note.txt": b"a note", "empty.txt": b""}
    given = [server.url(f"files/{name}") for name in ("table.parquet", "note.txt", "empty.txt")]
    artifact = run_stage("data.extract", {"input": given})
    assert {"a note", "row 599 of a table"} <= {document.text for document in documents(artifact)}
    assert artifact.manifest.counts["documents_in"] == 602


@pytest.mark.parametrize("way", ["flaky", "cut", "redirects/5"])
def test_temporary_failures_and_a_few_redirects_lose_nothing(
    server: Server, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longcat.pipeline.remote, "BLOCK_BYTES", 100)
    content = server.files["x.txt"] = bytes(range(256)) * 4
    (file,) = remote_files(server.url(f"{way}/x.txt"))
    with file.open() as stream:
        assert stream.read() == content
        stream.seek(-10, io.SEEK_END)
        assert (stream.read(4), stream.tell()) == (content[-10:-6], len(content) - 6)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("files/missing.txt", "404"),
        ("down/x.txt", "in 4 tries: HTTP status 503"),
        ("whole/x.txt", "does not answer range requests"),
        ("unversioned/x.txt", "neither ETag nor date"),
        ("redirects/6/x.txt", "more than 5 redirects"),
        ("away/x.txt", "localhost, which is not a public address"),
        ("ftp/x.txt", "redirect to ftp"),
        ("broken/x.txt", r"redirect to http://\[::1 is not followed"),
        ("more/x.txt", "more than the 1 bytes requested"),
    ],
)
def test_unreadable_files_are_named(server: Server, path: str, message: str) -> None:
    server.files["x.txt"] = b"content of the file"
    with pytest.raises(InputError, match=message):
        remote_files(server.url(path))
    assert server.asked.total() <= 6


def test_a_file_that_changes_while_it_is_read_is_refused(server: Server, run_stage: RunStage) -> None:
    server.files["x.txt"] = b"content of the file"
    with pytest.raises(InputError, match=r"changed (while it was read|during use)"):
        run_stage("data.extract", {"input": [server.url("changing/x.txt")]})


@pytest.mark.parametrize("name", ["x.txt", "crawl.warc.gz", "table.parquet"])
def test_an_unreachable_server_fails_the_stage_and_drops_no_record(
    server: Server, run_stage: RunStage, name: str
) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": ["one", "two"]}), stream)
    server.files |= {"x.txt": b"content", "crawl.warc.gz": crawl(3), "table.parquet": stream.getvalue()}
    with pytest.raises(InputError, match="in 4 tries: HTTP status 503"):
        run_stage("data.extract", {"input": [server.url(f"dies/{name}")]})


@pytest.mark.parametrize(
    "url",
    [
        "https:///x",
        "https://user:secret@host.example/x",
        "http://[::1",
        "http://a:99999/x",
        "https://a\0b/x",
        "http://",
    ],
)
def test_invalid_urls_and_urls_with_secrets_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="invalid URL") as caught:
        remote_files(url)
    assert "secret" not in str(caught.value)


def test_the_fingerprint_depends_on_url_size_and_version() -> None:
    files = [RemoteFile(*given) for given in [("s3://b/x", 1, "a"), ("s3://b/x", 2, "a"), ("s3://b/x", 1, "b")]]
    digests = [fingerprint_paths([file])["s3://b/x"] for file in files]
    assert len(set(digests)) == 3
    assert fingerprint_paths([pickle.loads(pickle.dumps(files[0]))])["s3://b/x"] == digests[0]  # noqa: S301


def test_names_that_are_remote() -> None:
    assert all(map(is_remote, ["s3://b/x", "gs://b/x", "https://h/x", "http://h/x"]))
    assert not any(map(is_remote, ["notes/", "file:///x", "C:/x", "s3:/x"]))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Memory file system of fsspec as an object store with versions."""
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (pip install 'longcat-cli[s3]')")
    monkeypatch.setitem(longcat.pipeline.remote.OBJECT_STORES, "memory", "fsspec")
    monkeypatch.setattr(longcat.pipeline.remote, "FIRST_WAIT_SECONDS", 0.0)
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/bucket", recursive=True)


def test_folders_and_patterns_of_an_object_store(bucket: Any, run_stage: RunStage) -> None:
    for name in ("b.txt", "a.txt", "deep/c.txt", "picture.png"):
        bucket.pipe(f"/bucket/{name}", f"text of {name}".encode())
    whole = run_stage("data.extract", {"input": ["memory://bucket"]})
    assert [document.text for document in documents(whole)] == ["text of a.txt", "text of b.txt", "text of deep/c.txt"]
    assert whole.manifest.metrics["files_skipped"] == 1
    some = run_stage("data.extract", {"input": ["memory://bucket/*.txt"]})
    assert [document.source for document in documents(some)] == ["memory://bucket/a.txt", "memory://bucket/b.txt"]
    for name in ("memory://bucket/x.txt", "memory://bucket/*.html"):
        with pytest.raises(InputError, match=r"no such file|matches no file"):
            run_stage("data.extract", {"input": [name]})


def test_a_changed_object_makes_another_artifact_and_is_not_read_as_the_old_one(
    bucket: Any, run_stage: RunStage
) -> None:
    bucket.pipe("/bucket/a.txt", b"first text")
    first = run_stage("data.extract", {"input": ["memory://bucket/a.txt"]})
    (listed,) = remote_files("memory://bucket/a.txt")
    bucket.pipe("/bucket/a.txt", b"other text")
    second = run_stage("data.extract", {"input": ["memory://bucket/a.txt"]})
    assert [documents(item)[0].text for item in (first, second)] == ["first text", "other text"]
    with pytest.raises(InputError, match="changed since it was listed"):
        listed.read()


def test_a_failing_store_is_tried_four_times(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe("/bucket/a.txt", b"some text")
    (file,) = remote_files("memory://bucket/a.txt")
    calls = []

    def refuse(*_: Any, **__: Any) -> bytes:
        calls.append(1)
        raise TimeoutError("slow")

    monkeypatch.setattr(type(bucket), "cat_file", refuse)
    with pytest.raises(InputError, match="in 4 tries: TimeoutError: slow"):
        file.read()
    assert len(calls) == 4


def test_without_the_client_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(InputError, match=r'pip install "longcat-cli\[s3\]"'):
        remote_files("s3://bucket/x")
