"""The stage data.extract over files of every format."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InputError, UsageError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from tests.docs.blocks import ROOT
from tests.docs.site import build_site


def reasons(problems: list[dict[str, Any]]) -> list[str]:
    return [problem["reason"] for problem in problems]


def test_crawl_gives_documents_with_url_title_language_and_record_id(
    extract_bytes: Any, record: Callable[..., bytes]
) -> None:
    html = "<html lang=fr><title>Le titre</title><p>Un peu de texte, déjà.</p>".encode("latin-1")
    content = b"".join(
        [
            record(90, b"software: x", warc_type="warcinfo", content_type="application/warc-fields"),
            record(1, html, content_type="text/html; charset=iso-8859-1"),
            record(2, b"# Heading\n\ntext", content_type="text/markdown"),
            record(3, b"Heading\n=======\n\ntext", content_type="text/x-rst"),
            record(4, b"  indented text\n\n", content_type="text/plain"),
            record(5, b"plain text of a page", warc_type="conversion", content_type="text/plain"),
            record(6, b"<p>a resource</p>", warc_type="resource", content_type="text/html"),
            record(7, b"<!doctype html><html><p>no type stated</p></html>", content_type=""),
        ]
    )
    made = extract_bytes("x.warc", content)
    assert [d.metadata["kind"] for d in made.documents] == ["html", "markdown", "rst", "text", "text", "html", "html"]
    first = made.documents[0]
    assert (first.text, first.url) == ("Un peu de texte, déjà.", "http://site.example/1")
    assert first.metadata == {
        "kind": "html",
        "title": "Le titre",
        "html_language": "fr",
        "encoding": "windows-1252",
        "page_kind": first.metadata["page_kind"],
        "extraction_fallback": "no_content",
        "warc_record_id": "<urn:uuid:00000001>",
        "warc_date": "2024-01-02T03:04:05Z",
    }
    assert made.documents[3].text == "  indented text"
    assert made.counts == {"documents_in": 7, "documents_out": 7, "dropped": {}}
    assert made.metrics["other_records"] == 1
    assert len({d.id for d in made.documents}) == 7


def test_pages_that_are_no_text_are_dropped_with_a_reason(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    cases = {
        "content_type": record(1, b"\x89PNG....", content_type="image/png"),
        "binary": record(2, b"%PDF-1.4 ..."),
        "http_status": record(3, status=404),
        "no_text": record(4, b"<html></html>"),
        "bad_http": record(5).replace(b"HTTP/1.1 200", b"XTTP/1.1 200"),
        "short_text": record(6, b"<p>short</p>"),
        "bad_content_encoding": record(7, b"x", http_headers="Content-Encoding: rot13\r\n"),
    }
    made = extract_bytes("x.warc", b"".join(cases.values()) + record(8), min_text_chars=10)
    assert made.counts["dropped"] == dict.fromkeys(sorted(cases), 1)
    assert made.pages == [8]
    assert {p["record"]: p["reason"] for p in made.problems} == {
        f"<urn:uuid:{number:08d}>": reason for number, reason in enumerate(cases, start=1)
    }
    assert all(p["file"].endswith("x.warc") and "offset" in p and "url" in p for p in made.problems)


def test_damage_is_counted_and_named_with_file_and_offset(extract_bytes: Any, members: list[bytes]) -> None:
    members[3] = members[3][:200] + b"\xff" * 30 + members[3][230:]
    made = extract_bytes("x.warc.gz", b"".join(members)[:-20])
    assert made.pages == [0, 1, 2, 4, 5, 6]
    assert made.counts["dropped"] == {"corrupt_gzip": 1, "truncated": 1}
    starts = [sum(map(len, members[:index])) for index in (3, 7)]
    assert [(p["reason"], p["offset"]) for p in made.problems] == [
        ("corrupt_gzip", starts[0]),
        ("truncated", starts[1]),
    ]
    assert all(p["file"].endswith("/x.warc.gz") for p in made.problems)


def test_replaced_characters_are_counted(extract_bytes: Any) -> None:
    made = extract_bytes("x.txt", "Ein schöner Satz über Äpfel. ".encode() * 20 + b"\xff\xff")
    assert made.documents[0].metadata["replaced_characters"] == 2
    assert made.metrics["replaced_characters"] == 2


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json.gz", "x.jsonl.zst", "x.ndjson"])
def test_json_lines(extract_bytes: Any, name: str) -> None:
    lines = [
        json.dumps({"text": "first text", "id": "a1", "url": "http://x.example/", "metadata": {"n": 1}}).encode(),
        b"{not json",
        json.dumps({"title": "no text"}).encode(),
        b"",
        json.dumps(["no", "object"]).encode(),
        json.dumps({"text": "x" * 3000}).encode(),
        b'{"text": "caf\xe9 latin-1"}',
        json.dumps({"text": "last text", "id": 7, "language": "en"}).encode(),
    ]
    content = b"\n".join(lines)
    pack = {"gz": gzip.compress, "st": zstandard.ZstdCompressor().compress}.get(name[-2:], bytes)
    made = extract_bytes(name, pack(content), max_record_bytes=2048)
    assert [d.text for d in made.documents] == ["first text", "café latin-1", "last text"]
    first, _, last = made.documents
    assert (first.url, first.metadata) == ("http://x.example/", {"n": 1, "original_id": "a1", "kind": "text"})
    assert (last.language, last.metadata["original_id"]) == ("en", "7")
    assert [(p["line"], p["reason"]) for p in made.problems] == [
        (2, "not_json"),
        (3, "missing_text"),
        (5, "not_json"),
        (6, "too_large"),
    ]


def test_json_lines_of_other_field_names_that_end_early(extract_bytes: Any) -> None:
    lines = b"".join(json.dumps({"body": f"text {n} " * 50, "link": "u"}).encode() + b"\n" for n in range(2000))
    packed = gzip.compress(lines, mtime=0)
    made = extract_bytes("x.jsonl.gz", packed[: len(packed) // 2], text_field="body", url_field="link")
    numbers = [int(d.text.split()[1]) for d in made.documents]
    assert numbers == list(range(len(numbers)))
    assert 500 < len(numbers) < 1500
    assert [(p["reason"], p["line"]) for p in made.problems] == [("truncated", len(numbers) + 1)]
    assert made.documents[0].url == "u"


def test_a_file_of_broken_lines_does_not_fill_the_list_of_problems(extract_bytes: Any) -> None:
    made = extract_bytes("x.jsonl", b"broken\n" * 1500 + b'{"text": "ok"}\n')
    assert made.counts["dropped"] == {"not_json": 1500}
    assert len(made.problems) == 1001
    assert made.problems[-1]["problems"] == 500


def test_parquet(tmp_path: Path, extract: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"content": ["one", None, "three"], "id": ["a", "b", "c"], "url": ["u1", None, "u3"]})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path)
    made = extract(path, text_field="content")
    assert [(d.text, d.url, d.metadata["original_id"]) for d in made.documents] == [
        ("one", "u1", "a"),
        ("three", "u3", "c"),
    ]
    assert [(p["row"], p["reason"]) for p in made.problems] == [(2, "missing_text")]
    with pytest.raises(InputError, match=r"no column 'text'.*content, id, url"):
        extract(path)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(path.read_bytes()[:-30])
    made = extract(path, broken, text_field="content")
    assert made.counts["dropped"] == {"corrupt_parquet": 1, "missing_text": 1}


def test_folder_of_mixed_files(tmp_path: Path, extract: Any) -> None:
    folder = tmp_path / "mixed"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "linked").symlink_to(outside)
    (folder / ".git" / "x.txt").write_text("hidden")
    (folder / "a.html").write_text("<p>a page</p>")
    (folder / "b.md").write_text("# markdown")
    (folder / "c.rst").write_text("rst\n===")
    (folder / "d.txt").write_text("text")
    (folder / "e.py").write_text("\n\ndef f():\n    return 1\n")
    (folder / "f.xyz").write_text("unknown")
    (folder / "g.txt").write_bytes(b"\x7fELF\0\0")
    (folder / "sub" / "h.rs").write_text("fn main() {}")
    (folder / "sub" / "i.html.gz").write_bytes(gzip.compress(b"<p>packed</p>"))
    made = extract(folder)
    found = {Path(d.source).name: (d.text, d.metadata["kind"]) for d in made.documents}
    assert found == {
        "a.html": ("a page", "html"),
        "b.md": ("# markdown", "markdown"),
        "c.rst": ("rst\n===", "rst"),
        "d.txt": ("text", "text"),
        "e.py": ("def f():\n    return 1", "code"),
        "h.rs": ("fn main() {}", "code"),
        "i.html.gz": ("packed", "html"),
    }
    languages = {d.metadata.get("programming_language") for d in made.documents}
    assert languages == {None, "python", "rust"}
    assert reasons(made.problems) == ["binary", "unknown_format"]
    assert made.metrics["files_skipped"] == 1
    only = extract(folder, formats=["code"])
    assert len(only.documents) == 2


def test_files_that_are_passed_over_are_named(
    tmp_path: Path, extract: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "b.doc", "c.xls", "d.XLS", "e.json", "noending", "f.py"):
        (tmp_path / name).write_text("text")
    monkeypatch.setattr(logging.getLogger("longcat"), "propagate", True)
    made = extract(tmp_path, formats=["text"])
    assert made.metrics["files_skipped"] == 6
    assert made.metrics["skipped_by_ending"] == {".doc": 1, ".json": 1, ".py": 1, ".xls": 2, "no ending": 1}
    named = {Path(problem["file"]).name: problem["reason"] for problem in made.problems}
    unknown = dict.fromkeys(("b.doc", "c.xls", "d.XLS", "e.json", "noending"), "unknown_format")
    assert named == unknown | {"f.py": "format_left_out"}
    assert "6 files skipped: .xls 2, " in caplog.text


def test_glob_patterns_and_forced_format(tmp_path: Path, extract: Any) -> None:
    for name in ("a.data", "b.data", "c.other"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    made = extract(tmp_path / "*.data", format="jsonl")
    assert [d.text for d in made.documents] == ["a.data", "b.data"]
    with pytest.raises(InputError, match="unknown file format"):
        extract(tmp_path / "a.data")
    with pytest.raises(InputError, match=r"none\*\.gz: the pattern matches no file"):
        extract(tmp_path / "none*.gz")


def test_missing_input_is_named(tmp_path: Path, extract: Any) -> None:
    with pytest.raises(InputError) as caught:
        extract(tmp_path / "absent.warc.gz")
    assert "absent.warc.gz" in str(caught.value)
    assert caught.value.exit_code == 3


def test_no_input_and_no_records(tmp_path: Path, extract: Any, extract_bytes: Any) -> None:
    with pytest.raises(UsageError, match="PATH or --crawl NAME"):
        extract()
    with pytest.raises(InputError, match=r"empty\.warc\.gz: there are no records"):
        extract_bytes("empty.warc.gz", b"")
    with pytest.raises(ConfigError, match="max_record_bytes"):
        extract_bytes("x.txt", b"x", max_record_bytes=0)


def test_changed_input_makes_another_artifact(extract_bytes: Any) -> None:
    first = extract_bytes("x.txt", b"one")
    second = extract_bytes("x.txt", b"two")
    assert first.artifact.id != second.artifact.id
    assert second.documents[0].text == "two"


def test_same_bytes_for_one_worker_and_two(tmp_path: Path, members: list[bytes]) -> None:
    names = []
    for number in range(3):
        path = tmp_path / f"{number}.warc.gz"
        path.write_bytes(b"".join(members)[: len(b"".join(members)) - 100 * number])
        names.append(str(path))
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(10):
        (texts / f"{number}.txt").write_text(f"text {number}")
    digests = []
    for workers in (1, 2):
        session = Session(Store(tmp_path / f"store-{workers}"), engine=LocalEngine(workers=workers))
        artifact = run_stage(
            session, "data.extract", {"input": [*names, str(texts)], "shard_bytes": 20}, publish_as="x"
        ).artifact
        files = sorted(path for path in artifact.path.iterdir() if path.name != "manifest.json")
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert digests[0] == digests[1]
    assert len(digests[0]) > 5


def test_pages_of_the_documentation(tmp_path: Path, extract: Any) -> None:
    """Pages of a site generator, with navigation around the text, against the markdown they are made from."""
    build_site(ROOT, tmp_path / "site")
    made = extract(*sorted((tmp_path / "site").glob("*/index.html")))
    assert made.counts["documents_in"] == made.counts["documents_out"] > 25
    for document in made.documents:
        source = ROOT / "docs" / f"{Path(document.source).parent.name}.md"
        assert _word_bag_f1(document.text, source.read_text(encoding="utf-8")) > 0.9, source.name


def test_real_pages(tmp_path: Path, shared_data: Path, extract: Any) -> None:
    """Pages of the open web; the floor tells a broken extraction from a working one, it is no target."""
    with (shared_data / "web" / "web_sample.warc.gz").open("rb") as crawl:
        (tmp_path / "start.warc.gz").write_bytes(crawl.read(4 << 20))
    made = extract(tmp_path / "start.warc.gz")
    assert made.counts["documents_in"] > 100
    assert made.counts["dropped"].pop("truncated") == 1
    assert set(made.counts["dropped"]) <= {"no_text"}
    texts = {d.metadata["warc_record_id"].strip("<>").rpartition(":")[2]: d.text for d in made.documents}
    with (shared_data / "web" / "web_sample.truth.jsonl").open() as lines:
        gold = {page["id"]: page["text"] for page in map(json.loads, lines)}
    scores = [_word_bag_f1(text, gold[page]) for page, text in texts.items()]
    assert sum(scores) / len(scores) > 0.7


def _word_bag_f1(text: str, gold: str) -> float:
    ours, theirs = (Counter(re.findall(r"\w+", side.lower())) for side in (text, gold))
    return 2 * (ours & theirs).total() / max(1, ours.total() + theirs.total())


def test_a_crawl_artifact_and_files_together(
    tmp_path: Path, run_stage: Callable[..., Any], record: Callable[..., bytes]
) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.html").write_text("<html><body><p>page 1 of the crawl</p></body></html>")
    run_stage("data.collect.local", {"kinds": ["html"], "html_folders": [str(pages)]}, publish_as="crawl")
    extra = tmp_path / "x.warc"
    extra.write_bytes(record(7))
    artifact = run_stage("data.extract", {"input": [str(extra)]}, {"crawl": "crawl"})
    first, second = [d for shard in document_shards(artifact) for d in read_documents(shard)]
    assert first.text == "page 1 of the crawl"
    assert first.url is not None
    assert first.url.endswith("/a.html")
    crawl = artifact.manifest.inputs["crawl"][0].id
    assert first.source == f"{crawl}/crawl-00000.warc.gz"
    assert second.url == "http://site.example/7"


def test_finished_shards_are_not_extracted_again(
    tmp_path: Path, extract: Any, record: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import longcat.stages.data.extract.shard as module

    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.warc")
        paths[-1].write_bytes(record(number))
    real, calls = module.extract_shard, []

    def interrupted(task: Any) -> dict[str, Any]:
        calls.append(task.number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(module, "extract_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(*paths)
    made = extract(*paths)
    assert calls == [0, 1, 1, 2]
    assert made.pages == [0, 1, 2]
