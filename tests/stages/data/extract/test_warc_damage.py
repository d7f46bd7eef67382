"""Damaged crawls: what is lost is counted and named, what is whole is kept."""

from __future__ import annotations

import gzip
import io
import random
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.inputs import InputFile
from longcat.stages.data.extract.reader import read_file
from longcat.stages.data.extract.records import Problem, Record


def offsets(parts: list[bytes]) -> list[int]:
    return [sum(map(len, parts[:index])) for index in range(len(parts))]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[list[int], list[Problem]]]:
    """Page numbers and problems of one crawl file."""

    def run(name: str, content: bytes, **config: Any) -> tuple[list[int], list[Problem]]:
        path = tmp_path / name
        path.write_bytes(content)
        items = list(read_file(InputFile(path, name, "warc"), ExtractConfig(**config), Counter()))
        pages = [int(item.url.rpartition("/")[2]) for item in items if isinstance(item, Record) and item.url]
        return pages, [item for item in items if isinstance(item, Problem)]

    return run


def places(problems: list[Problem]) -> list[tuple[str, int]]:
    return [(problem.reason, problem.place["offset"]) for problem in problems]


@pytest.mark.parametrize("cut", [3, 5, 100, -9, -3])
def test_gzip_that_ends_early_keeps_the_records_before(read: Any, members: list[bytes], cut: int) -> None:
    """Cut within member 5: in its header, its data and its trailer."""
    start = offsets(members)[5]
    end = start + cut if cut > 0 else offsets(members)[6] + cut
    pages, problems = read("x.warc.gz", b"".join(members)[:end])
    assert pages == [0, 1, 2, 3, 4]
    assert places(problems) == [("truncated", start)]


@pytest.mark.parametrize(
    "harm",
    [
        lambda member: member[:200] + b"\xff" * 30 + member[230:],  # data
        lambda member: member[:-6] + bytes([member[-6] ^ 0xFF]) + member[-5:],  # checksum
        lambda member: b"\0" + member[1:],  # magic
        lambda member: member[:300],  # the rest of the member is missing
        lambda member: b"not gzip at all, " * 20,
    ],
)
def test_corrupt_gzip_member_costs_that_record_alone(
    read: Any, members: list[bytes], harm: Callable[[bytes], bytes]
) -> None:
    members[3] = harm(members[3])
    pages, problems = read("x.warc.gz", b"".join(members))
    assert pages == [0, 1, 2, 4, 5, 6, 7]
    ((reason, offset),) = places(problems)
    assert reason == "corrupt_gzip"
    assert offset - offsets(members)[3] in (0, 1)  # a zero byte before a member counts as filling


def test_two_corrupt_members_in_a_row_and_one_at_each_end(read: Any, members: list[bytes]) -> None:
    for index in (0, 3, 4, 7):
        members[index] = members[index][:300] + b"\xff" * 40 + members[index][340:]
    pages, problems = read("x.warc.gz", b"".join(members))
    assert pages == [1, 2, 5, 6]
    assert places(problems) == [("corrupt_gzip", offsets(members)[index]) for index in (0, 3, 4, 7)]


def test_whole_crawl_in_one_member_that_ends_early(read: Any, record: Any) -> None:
    content = gzip.compress(b"".join(record(number) for number in range(8)), mtime=0)
    pages, problems = read("x.warc.gz", content[: len(content) * 3 // 4])
    assert pages == list(range(len(pages)))
    assert 4 <= len(pages) <= 6
    assert places(problems) == [("truncated", 0)]


@pytest.mark.parametrize("frames", ["one a record", "one for all"])
def test_corrupt_zstd(read: Any, record: Any, frames: str) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    records = [record(number) for number in range(8)]
    if frames == "one for all":
        content = bytearray(compressor.compress(b"".join(records)))
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        pages, problems = read("x.warc.zst", bytes(content))
        assert pages == list(range(len(pages)))
        assert places(problems) == [("corrupt_zstd", 0)]
        return
    parts = [compressor.compress(item) for item in records]
    harmed = list(parts)
    harmed[3] = parts[3][:100] + bytes(100) + parts[3][200:]
    pages, problems = read("x.warc.zst", b"".join(harmed))
    assert pages == [0, 1, 2, 4, 5, 6, 7]
    assert places(problems) == [("corrupt_zstd", offsets(parts)[3])]
    pages, problems = read("y.warc.zst", b"".join(parts)[: offsets(parts)[6] + 50])
    assert pages == [0, 1, 2, 3, 4, 5]
    assert places(problems) == [("truncated", offsets(parts)[6])]


def test_zstd_with_the_dictionary_in_its_first_frame(read: Any, record: Any) -> None:
    records = [record(number) for number in range(8)]
    dictionary = zstandard.train_dictionary(4096, [record(number) for number in range(100, 400)])
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    carried = zstandard.ZstdCompressor().compress(dictionary.as_bytes())
    first = b"\x5d\x2a\x4d\x18" + len(carried).to_bytes(4, "little") + carried
    pages, problems = read("x.warc.zst", first + b"".join(compressor.compress(item) for item in records))
    assert (pages, problems) == (list(range(8)), [])


def test_gzip_bomb_is_bounded_in_memory_and_named(read: Any, members: list[bytes], record: Any) -> None:
    bomb = gzip.compress(record(99, bytes(100 << 20)), compresslevel=9, mtime=0)
    content = b"".join([*members[:3], bomb, *members[3:]])
    tracemalloc.start()
    try:
        pages, problems = read("x.warc.gz", content, max_record_bytes=1 << 20, max_expansion=50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 60 << 20
    assert pages == list(range(8))
    assert places(problems) == [("expansion_limit", offsets(members)[3])]


def test_zstd_bomb_is_bounded_in_memory_and_named(read: Any, record: Any) -> None:
    compressor = zstandard.ZstdCompressor(level=3)
    parts = [compressor.compress(item) for item in (record(0), record(99, bytes(100 << 20)), record(1))]
    tracemalloc.start()
    try:
        pages, problems = read("x.warc.zst", b"".join(parts), max_record_bytes=1 << 20)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 80 << 20
    assert pages == [0, 1]
    assert places(problems) == [("expansion_limit", len(parts[0]))]


def test_record_over_the_limit_is_passed_over(read: Any, record: Any) -> None:
    content = b"".join([record(0), record(1, b"<p>" + b"x" * 5000), record(2)])
    pages, problems = read("x.warc", content, max_record_bytes=4096)
    assert pages == [0, 2]
    assert [(p.reason, p.key, p.url) for p in problems] == [
        ("too_large", "<urn:uuid:00000001>", "http://site.example/1")
    ]


def test_plain_crawl_with_garbage_between_records(read: Any, record: Any) -> None:
    content = record(0) + b"garbage\r\nmore of it\r\n" + record(1) + b"WARC/1.0\r\nno length\r\n\r\n" + record(2)
    pages, problems = read("x.warc", content)
    assert pages == [0, 1, 2]
    assert [p.reason for p in problems] == ["not_warc", "bad_warc_header"]


def test_plain_crawl_that_ends_early(read: Any, record: Any) -> None:
    records = [record(number) for number in range(3)]
    pages, problems = read("x.warc", b"".join(records)[:-100])
    assert pages == [0, 1]
    assert places(problems) == [("truncated", offsets(records)[2])]


def test_zero_bytes_behind_the_last_member_are_no_damage(read: Any, members: list[bytes]) -> None:
    assert read("x.warc.gz", b"".join(members) + bytes(10_000)) == (list(range(8)), [])


def test_duplicate_record_ids_are_kept_once(read: Any, members: list[bytes]) -> None:
    pages, problems = read("x.warc.gz", b"".join([*members[:2], members[1]]))
    assert pages == [0, 1]
    assert [p.reason for p in problems] == ["duplicate_record"]


@pytest.fixture(params=["warcio", "real"])
def crawl(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A crawl that longcat did not write: by warcio with all types of records, or of real pages if there are any."""
    if request.param == "real":
        shared_data: Path = request.getfixturevalue("shared_data")
        return shared_data / "web" / "web_sample.warc.gz"
    path, draw = tmp_path / "crawl.warc.gz", random.Random(3)
    with path.open("wb") as stream:
        writer = WARCWriter(stream, gzip=True)
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "warcio"}))
        for number in range(60):
            url, words = f"http://site.example/{number}", [f"word{draw.randrange(999)}" for _ in range(number**2 + 1)]
            page = f"<html><body><p>{' '.join(words)}</p></body></html>\r\n\r\n".encode()
            headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            response = writer.create_warc_record(url, "response", payload=io.BytesIO(page), http_headers=headers)
            request_headers = StatusAndHeaders("GET / HTTP/1.1", [("Host", "site.example")], is_http_request=True)
            asked = writer.create_warc_record(url, "request", http_headers=request_headers)
            writer.write_request_response_pair(asked, response)
            writer.write_record(writer.create_warc_record(url, "metadata", payload=io.BytesIO(b"fetchTimeMs: 3\r\n")))
    return path


def test_reads_what_fastwarc_reads(crawl: Path) -> None:
    """The same records with the same bytes."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    theirs = [
        (item.record_id, item.reader.read())
        for item in ArchiveIterator(str(crawl), record_types=WarcRecordType.response)
    ]
    items = list(read_file(InputFile(crawl, crawl.name, "warc"), ExtractConfig(), Counter()))
    assert len(theirs) >= 60
    assert [(item.key, item.content) for item in items] == theirs  # type: ignore[union-attr]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_random_damage_never_costs_records_it_does_not_touch(read: Any, record: Any, compression: str) -> None:
    draw = random.Random(7)
    compress = gzip.compress if compression == "gzip" else zstandard.ZstdCompressor(write_checksum=True).compress
    clean = [compress(record(number)) for number in range(8)]
    for trial in range(150):
        harmed = [bytearray(part) for part in clean]
        touched = draw.sample(range(8), draw.randint(1, 2))
        for index in touched:
            part = harmed[index]
            at = draw.randrange(len(part))
            if draw.random() < 0.3:
                del part[at : at + draw.randint(1, 40)]
            else:
                part[at : at + 20] = draw.randbytes(20)
        pages, problems = read(f"{trial}.warc.{'gz' if compression == 'gzip' else 'zst'}", b"".join(harmed))
        assert set(range(8)) - set(touched) <= set(pages), (trial, touched, pages)
        assert pages == sorted(set(pages)), (trial, touched)
        # A lost page is always a named problem.
        assert problems or pages == list(range(8)), (trial, touched, pages)


def with_length(content: bytes, change: int) -> bytes:
    """A record whose Content-Length is wrong by `change`."""
    head, _, rest = content.partition(b"Content-Length: ")
    length, _, rest = rest.partition(b"\r\n")
    return head + b"Content-Length: %d\r\n" % (int(length) + change) + rest


@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
@pytest.mark.parametrize("change", [-900, -1, 5, 300, 1500, 4000, 50_000])
def test_a_wrong_length_costs_that_record_alone(read: Any, record: Any, name: str, change: int) -> None:
    """Too small, so that the rest of the record follows; too great, so that the next records begin inside it."""
    records = [record(number) for number in range(6)]
    assert all(1500 < len(item) < 2500 for item in records)
    records[2] = with_length(records[2], change)
    parts = [gzip.compress(item, mtime=0) for item in records] if name.endswith("gz") else records
    pages, problems = read(name, b"".join(parts))
    assert pages == [0, 1, 3, 4, 5]
    assert places(problems) == [("bad_warc_length", offsets(parts)[2])]
    assert problems[0].key == "<urn:uuid:00000002>"


def test_a_length_beyond_the_file_is_named(read: Any, record: Any) -> None:
    records = [record(0), with_length(record(1), 10**9), record(2)]
    pages, problems = read("x.warc", b"".join(records))
    assert pages == [0]
    assert [problem.reason for problem in problems] == ["truncated"]


def test_a_record_without_a_type_is_named(read: Any, record: Any) -> None:
    untyped = record(1).replace(b"WARC-Type: response\r\n", b"")
    pages, problems = read("x.warc", record(0) + untyped + record(2))
    assert pages == [0, 2]
    assert [(problem.reason, problem.key) for problem in problems] == [("bad_warc_header", "<urn:uuid:00000001>")]


def test_records_with_one_newline_or_none_between_them_are_whole(read: Any, record: Any) -> None:
    content = record(0)[:-4] + record(1)[:-2] + record(2)[:-4]
    assert read("x.warc", content) == ([0, 1, 2], [])


PIECES = st.sampled_from(
    [
        b"WARC/1.0\r\n",
        b"WARC-Type: response\r\n",
        b"WARC-Type: metadata\r\n",
        b"WARC-Record-ID: <a>\r\n",
        b"WARC-Target-URI: http://a.example/1\r\n",
        b"Content-Type: text/plain\r\n",
        b"Content-Length: 0\r\n",
        b"Content-Length: 12\r\n",
        b"Content-Length: 99999999\r\n",
        b"Content-Length: -1\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"twelve bytes",
        b"\0\0\0",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(PIECES | st.binary(max_size=20), max_size=30),
    st.sampled_from(["none", "gzip", "zstd"]),
    st.binary(max_size=6),
    st.integers(0, 2000),
)
def test_any_bytes_are_read_to_the_end_and_accounted_for(
    pieces: list[bytes], compression: str, harm: bytes, at: int
) -> None:
    """Every record or stretch of damage is one item with a place inside the file, in order; none is met twice."""
    content = b"".join(pieces)
    compress = {"none": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor(write_checksum=True).compress}
    packed = compress[compression](content)
    packed = packed[:at] + harm + packed[at + len(harm) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.warc"
        path.write_bytes(packed)
        items = list(read_file(InputFile(path, "x.warc", "warc"), ExtractConfig(max_record_bytes=1024), Counter()))
    offsets_found = [item.place["offset"] for item in items]
    assert offsets_found == sorted(offsets_found)
    assert all(0 <= offset <= len(packed) for offset in offsets_found)
    assert all(item.reason for item in items if isinstance(item, Problem))
    assert len(items) <= len(packed) + 1


def test_a_file_of_wrong_lengths_takes_no_longer_than_another(read: Any) -> None:
    """Every record claims all that follows; reading each again from where it begins would take minutes."""
    head = b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Type: text/plain\r\nContent-Length: 4000000\r\n\r\nx\r\n\r\n"
    began = time.process_time()
    _, problems = read("x.warc", head * 100_000, max_record_bytes=4_000_000)
    assert time.process_time() - began < 10
    assert {problem.reason for problem in problems} <= {"bad_warc_length", "truncated"}


def lf(content: bytes, *, http: bool = True) -> bytes:
    """A record whose header lines, and with `http` also those of its content, end with LF."""
    head, _, rest = content.partition(b"\r\n\r\n")
    return head.replace(b"\r\n", b"\n") + b"\n\n" + (rest.replace(b"\r\n", b"\n") if http else rest)


@pytest.mark.parametrize("version", [b"WARC/0.17", b"WARC/0.18", b"WARC/1.0", b"WARC/1.1"])
@pytest.mark.parametrize("packed", [False, True])
def test_records_of_all_versions_and_line_ends(read: Any, record: Any, version: bytes, packed: bool) -> None:
    contents = [record(n).replace(b"WARC/1.1", version, 1) for n in range(6)]
    contents[1], contents[2] = lf(contents[1], http=False), lf(contents[2], http=False)
    contents[4] = contents[4].replace(b"\r\n\r\n", b"\n\r\n", 1)
    content = b"".join(map(gzip.compress, contents)) if packed else b"".join(contents)
    assert read("x.warc.gz" if packed else "x.warc", content) == ([0, 1, 2, 3, 4, 5], [])


@pytest.mark.parametrize("packed", [False, True])
def test_lengths_that_count_the_crs_which_were_stripped(read: Any, record: Any, packed: bool) -> None:
    """As in ClueWeb09: every CRLF became LF, and the lengths stayed."""
    contents = [
        lf(record(90, b"software: x\r\nformat: y", warc_type="warcinfo", content_type="application/warc-fields"))
    ]
    contents += [lf(record(n).replace(b"WARC/1.1", b"WARC/0.18", 1)) for n in range(4)]
    content = gzip.compress(b"".join(contents)) if packed else b"".join(contents)
    assert read("x.warc.gz" if packed else "x.warc", content) == ([0, 1, 2, 3], [])


def test_a_file_with_lf_that_ends_early(read: Any, record: Any) -> None:
    content = lf(record(0)) + lf(record(1))
    pages, problems = read("x.warc", content[:-500])
    assert pages == [0]
    assert [problem.reason for problem in problems] == ["truncated"]


def test_header_lines_that_are_folded(read: Any, record: Any) -> None:
    content = record(0).replace(b"WARC-Date", b"X-Note: a\r\n  Content-Length: 5\r\nWARC-Date", 1)
    assert read("x.warc", content + record(1)) == ([0, 1], [])


def test_records_of_wet_files_by_any_name(read: Any, record: Any, extract_bytes: Any) -> None:
    content = record(0, b"plain text of a page", warc_type="conversion", content_type="text/plain")
    for name in ("a.warc.wet.gz", "b.wet.gz", "c.warc.wet"):
        made = extract_bytes(name, gzip.compress(content) if name.endswith("gz") else content)
        assert [d.text for d in made.documents] == ["plain text of a page"]
