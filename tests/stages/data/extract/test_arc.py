"""ARC files: both versions, whole and damaged, plain and compressed."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

VERSIONS = {
    1: b"1 0 InternetArchive\nURL IP-address Archive-date Content-type Archive-length\n",
    2: b"2 0 InternetArchive\nURL IP-address Archive-date Content-type Result-code Checksum Location Offset Filename"
    b" Archive-length\n",
}


def page(number: int) -> bytes:
    words = b"words of the page " * 20
    return b"<html><title>T%d</title><body><p>page %d %s</p></body></html>" % (number, number, words)


def response(number: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page(number)


def arc_record(
    url: bytes, content: bytes, version: int = 1, content_type: bytes = b"text/html", length: int | None = None
) -> bytes:
    more = b" 200 checksum - 1234 name.arc.gz" if version == 2 else b""
    size = len(content) if length is None else length
    return b"%s 192.0.2.1 20080102030405 %s%s %d\n%s\n" % (url, content_type, more, size, content)


def first(version: int = 1) -> bytes:
    return arc_record(b"filedesc://x.arc", VERSIONS[version], version, b"text/plain")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("packing", ["plain", "members", "one member"])
def test_records_with_url_date_and_unique_ids(extract_bytes: Any, version: int, packing: str) -> None:
    records = [first(version)] + [
        arc_record(b"http://x.example/%d?a b" % number, response(number), version) for number in range(4)
    ]
    if packing == "members":
        made = extract_bytes("x.arc.gz", b"".join(map(gzip.compress, records)))
    elif packing == "one member":
        made = extract_bytes("x.arc.gz", gzip.compress(b"".join(records)))
    else:
        made = extract_bytes("x.arc", b"".join(records))
    assert made.pages == [0, 1, 2, 3]
    assert made.documents[1].url == "http://x.example/1?a b"
    assert made.documents[1].metadata["warc_date"] == "2008-01-02T03:04:05Z"
    assert len({d.id for d in made.documents}) == 4
    assert made.counts["dropped"] == {}
    assert made.metrics["other_records"] == 1


def test_records_without_http_header_and_records_that_are_no_pages(extract_bytes: Any) -> None:
    content = b"".join(
        [
            first(),
            arc_record(b"http://x.example/0", page(0)),
            arc_record(b"dns:x.example", b"20080102030405\nx.example. 300 IN A 192.0.2.1\n", content_type=b"text/dns"),
            arc_record(b"http://x.example/i.png", b"\x89PNG..", content_type=b"image/png"),
            arc_record(b"http://x.example/404", b"HTTP/1.1 404 Not Found\r\n\r\n"),
        ]
    )
    made = extract_bytes("x.arc", content)
    assert made.pages == [0]
    assert made.counts["dropped"] == {"content_type": 1, "dns": 1, "http_status": 1}


@pytest.mark.parametrize("change", [-30, -1, 1, 700])
def test_a_wrong_length_costs_that_record_alone(extract_bytes: Any, change: int) -> None:
    records = [arc_record(b"http://x.example/%d" % number, response(number)) for number in range(4)]
    size = len(response(1))
    records[1] = arc_record(b"http://x.example/1", response(1), length=size + change)
    made = extract_bytes("x.arc", b"".join(records))
    if change == 1:  # the newline behind it
        assert made.pages == [0, 1, 2, 3]
        return
    assert made.pages == [0, 2, 3]
    assert made.counts["dropped"] == {"bad_arc_length": 1}
    assert made.problems[0]["offset"] == len(records[0])


def test_garbage_between_records_and_a_file_that_ends_early(extract_bytes: Any) -> None:
    records = [arc_record(b"http://x.example/%d" % number, response(number)) for number in range(3)]
    made = extract_bytes("x.arc", records[0] + b"\xff\x00garbage\nand more\n" + records[1] + records[2][:-100])
    assert made.pages == [0, 1]
    assert [p["reason"] for p in made.problems] == ["not_arc", "truncated"]


def test_a_damaged_member_costs_its_record(extract_bytes: Any) -> None:
    members = [gzip.compress(arc_record(b"http://x.example/%d" % n, response(n)), mtime=0) for n in range(4)]
    members[1] = members[1][:100] + b"\xff" * 20 + members[1][120:]
    made = extract_bytes("x.arc.gz", b"".join(members))
    assert made.pages == [0, 2, 3]
    assert made.counts["dropped"] == {"corrupt_gzip": 1}


def test_a_record_over_the_limit(extract_bytes: Any) -> None:
    records = [arc_record(b"http://x.example/%d" % n, response(n) + b" " * (n == 1) * 5000) for n in range(3)]
    made = extract_bytes("x.arc", b"".join(records), max_record_bytes=2048)
    assert made.pages == [0, 2]
    assert made.counts["dropped"] == {"too_large": 1}
