"""WACZ files: crawls in a zip archive."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest


def wacz(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_crawl_of_the_archive_is_read_in_order(
    extract_bytes: Any, record: Callable[..., bytes], method: int
) -> None:
    files = {
        "datapackage.json": b"{}",
        "pages/pages.jsonl": b'{"format": "json-pages-1.0"}\n{"text": "an index"}\n',
        "archive/a.warc.gz": b"".join(gzip.compress(record(n)) for n in range(3)),
        "archive/b.warc": record(3) + record(1),
        "archive/notes.txt": b"no crawl",
        "indexes/index.cdx.gz": gzip.compress(b"x"),
    }
    made = extract_bytes("x.wacz", wacz(files, method))
    assert made.pages == [0, 1, 2, 3]
    assert made.counts["dropped"] == {"duplicate_record": 1}
    assert "archive/b.warc" in made.problems[0]["detail"]
    assert all(d.source.endswith("x.wacz") for d in made.documents)


def test_records_without_ids_have_keys_of_their_own(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    nameless = record(1).replace(b"WARC-Record-ID", b"X-Other", 1)
    made = extract_bytes("x.wacz", wacz({f"archive/{name}.warc": nameless for name in "ab"}))
    assert made.pages == [1, 1]
    assert len({d.id for d in made.documents}) == 2


def test_damage(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    whole = wacz({"archive/a.warc": record(1), "archive/b.warc": record(2)}, zipfile.ZIP_DEFLATED)
    start = whole.index(b"archive/b.warc") + 30
    made = extract_bytes("x.wacz", whole[:start] + bytes(20) + whole[start + 20 :])
    assert made.pages == [1]
    assert made.counts["dropped"] == {"corrupt_zip": 1}
    made = extract_bytes("y.wacz", whole[:-30])
    assert made.counts["dropped"] == {"corrupt_zip": 1}


def test_a_bomb_is_named(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    content = wacz({"archive/a.warc": bytes(100 << 20), "archive/b.warc": record(2)}, zipfile.ZIP_DEFLATED)
    made = extract_bytes("x.wacz", content)
    assert made.pages == [2]
    assert made.counts["dropped"] == {"expansion_limit": 1}
