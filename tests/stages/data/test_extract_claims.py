"""Guarantees of extraction beyond the tests of its parts: truncated codings, odd inputs, complete counts, restarts."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.errors import InputError
from longcat.pipeline.runner import Session
from longcat.pipeline.runner import run_stage as run
from longcat.stages.data.extract.http import parse_response
from longcat.stages.data.extract.records import Rejected
from longcat.stages.data.rules.judge import document_kind

RunStage = Callable[..., Artifact]
PAGE = b"<html><body><p>" + bytes(range(97, 123)) * 40 + b"</p></body></html>"


def _response(body: bytes, headers: str = "", status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Type: text/html\r\n{headers}\r\n".encode() + body


def _record(number: int, block: bytes) -> bytes:
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:t:{number}>\r\n"
        f"WARC-Target-URI: http://site.example/{number}\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def _problems(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in artifact.file("problems.jsonl").read_bytes().splitlines()]


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("cut", [1, 20])
def test_truncated_coded_body_is_not_a_complete_page(coding: str, encode: Callable[[bytes], bytes], cut: int) -> None:
    with pytest.raises(Rejected) as caught:
        parse_response(_response(encode(PAGE)[:-cut], f"Content-Encoding: {coding}\r\n"), 1 << 20)
    assert caught.value.reason == "bad_content_encoding"
    assert "ends early" in caught.value.detail


def test_gzip_body_of_several_members_is_joined_within_the_limit() -> None:
    coded = _response(gzip.compress(PAGE[:500]) + gzip.compress(PAGE[500:]), "Content-Encoding: gzip\r\n")
    assert parse_response(coded, len(PAGE)).body == PAGE
    with pytest.raises(Rejected) as caught:
        parse_response(coded, len(PAGE) - 1)
    assert caught.value.reason == "too_large"


def test_chunked_and_compressed_body_is_decoded_through_the_whole_stage(tmp_path: Path, run_stage: RunStage) -> None:
    packed = gzip.compress(b"<html><body><p>Packed, then sent in chunks.</p></body></html>")
    chunks = b"".join(b"%x\r\n" % len(part) + part + b"\r\n" for part in (packed[:7], packed[7:])) + b"0\r\n\r\n"
    headers = "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"
    (tmp_path / "x.warc").write_bytes(_record(1, _response(chunks, headers)))
    artifact = run_stage("data.extract", {"input": [str(tmp_path / "x.warc")]})
    (document,) = read_documents(document_shards(artifact)[0])
    assert document.text == "Packed, then sent in chunks."


@pytest.mark.parametrize("status", [204, 206, 301, 404, 500])
def test_responses_other_than_200_are_dropped(tmp_path: Path, run_stage: RunStage, status: int) -> None:
    (tmp_path / "x.warc").write_bytes(_record(1, _response(PAGE)) + _record(2, _response(PAGE, status=status)))
    artifact = run_stage("data.extract", {"input": [str(tmp_path / "x.warc")]})
    assert artifact.manifest.counts == {"documents_in": 2, "documents_out": 1, "dropped": {"http_status": 1}}


@pytest.mark.timeout(20)
def test_pipe_is_refused_without_waiting(tmp_path: Path, run_stage: RunStage) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(InputError, match=r"pipe\.txt: neither a file nor a folder"):
        run_stage("data.extract", {"input": [str(tmp_path / "pipe.txt")]})


def test_crawl_artifact_and_files_go_into_one_artifact(tmp_path: Path, session: Session) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "page.html").write_text("<html><body><p>A page that lies on the disk.</p></body></html>")
    crawl = run(session, "data.collect.local", {"kinds": ["html"], "html_folders": [str(pages)]}).artifact
    (tmp_path / "note.txt").write_text("A note beside the crawl.")
    made = run(session, "data.extract", {"input": [str(tmp_path / "note.txt")]}, {"crawl": crawl}).artifact
    documents = [document for shard in document_shards(made) for document in read_documents(shard)]
    assert [document.text for document in documents] == ["A page that lies on the disk.", "A note beside the crawl."]
    assert documents[0].source == f"{crawl.id}/crawl-00000.warc.gz"
    assert documents[0].url and documents[0].metadata["warc_record_id"]
    assert len({document.id for document in documents}) == 2


def test_filter_reads_the_kinds_written_by_extraction(tmp_path: Path, run_stage: RunStage) -> None:
    names = {"a.html": "prose", "b.md": "markdown", "c.rst": "markdown", "d.txt": "prose", "e.py": "code"}
    for name in names:
        (tmp_path / name).write_text("<p>text</p>" if name == "a.html" else "text")
    (tmp_path / "f.jsonl").write_text('{"text": "x = 1", "metadata": {"programming_language": "python"}}\n')
    artifact = run_stage("data.extract", {"input": [str(tmp_path)], "formats": ["html", "markdown", "rst", "text"]})
    found = [document for shard in document_shards(artifact) for document in read_documents(shard)]
    assert {Path(item.source).name: document_kind(item) for item in found} == {
        name: kind for name, kind in names.items() if kind != "code"
    }
    artifact = run_stage("data.extract", {"input": [str(tmp_path / "e.py")]})
    assert [document_kind(item) for item in read_documents(document_shards(artifact)[0])] == ["code"]


def test_finished_shards_are_not_extracted_again_after_a_kill(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longcat.stages.data.extract import shard

    names = []
    for number in range(3):
        path = tmp_path / f"{number}.warc"
        path.write_bytes(b"".join(_record(index, _response(PAGE + b"%d" % index)) for index in range(3)) + b"rubbish")
        names.append(str(path))
    read_file, seen = shard.read_file, []

    def dying(file: Any, *rest: Any) -> Any:
        seen.append(Path(file.source).name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read_file(file, *rest)

    monkeypatch.setattr(shard, "read_file", dying)
    with pytest.raises(BaseException):  # noqa: B017 - the error class of the runner does not matter here
        run(session, "data.extract", {"input": names})
    artifact = run(session, "data.extract", {"input": names}).artifact
    assert seen == ["0.warc", "1.warc", "2.warc", "2.warc"]
    assert artifact.manifest.counts == {"documents_in": 12, "documents_out": 9, "dropped": {"not_warc": 3}}
    assert [problem["file"] for problem in _problems(artifact)] == names


def test_every_real_page_comes_out_or_is_dropped_with_a_reason(
    tmp_path: Path, shared_data: Path, run_stage: RunStage
) -> None:
    crawl = shared_data / "web" / "web_sample.warc.gz"
    artifact = run_stage("data.extract", {"input": [str(crawl)]})
    counts = artifact.manifest.counts
    documents = [document for shard in document_shards(artifact) for document in read_documents(shard)]
    with (shared_data / "web" / "web_sample.truth.jsonl").open() as lines:
        pages = {f"<urn:wcxb:{json.loads(line)['id']}>" for line in lines}
    kept = [document.metadata["warc_record_id"] for document in documents]
    dropped = [problem["record"] for problem in _problems(artifact)]
    assert sorted(kept + dropped) == sorted(pages)
    assert counts["documents_in"] == len(pages) == 552
    assert counts["documents_out"] == len(kept)
    assert sum(counts["dropped"].values()) == len(dropped) < 30
    assert all(document.text.strip() for document in documents)
    # Three of the records have no target URI.
    assert sum(document.url is None for document in documents) <= 3


def test_layout_spaces_are_plain_spaces(run_stage: RunStage, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "page.html").write_text(
        "<html><body><h1>T</h1><p>" + "two&nbsp;words, hy&shy;phens. " * 30 + "</p></body></html>"
    )
    artifact = run_stage("data.extract", {"input": [str(folder)]})
    (document,) = read_documents(document_shards(artifact)[0])
    assert "two words, hyphens." in document.text
