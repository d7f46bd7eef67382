"""Large files cut into parts: the records of all parts are those of one reading, for whole and damaged files."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from longcat.pipeline.documents import document_shards, read_documents
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.parts import Part, Start
from longcat.stages.data.extract.reader import read_file
from longcat.stages.data.extract.records import InputFile, Problem, Record
from longcat.stages.data.extract.split import cut, exact_parts, index_part, index_tasks, shards


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@pytest.fixture(autouse=True)
def parts_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcat.stages.data.extract.split.MIN_PART_BYTES", 1)


@pytest.fixture
def same(tmp_path: Path) -> Callable[..., tuple[list[Any], int]]:
    """Check that reading in parts gives what reading at once gives; returns that, and the number of parts."""

    def run(name: str, content: bytes, form: str, part_bytes: int, **values: Any) -> tuple[list[Any], int]:
        path = tmp_path / name
        path.write_bytes(content)
        file = InputFile(path, name, form)
        config = ExtractConfig(**values)
        whole = list(read_file(file, config, Counter()))
        weight = 8 if name.endswith((".gz", ".zst", ".bz2")) else 1
        weight = weight * (1 if form in ("warc", "arc", "parquet") else 0.25)
        small = config.model_copy(update={"shard_bytes": max(1, int(part_bytes * weight))})
        cuts = cut([file], small)
        tasks = index_tasks(cuts, tmp_path, small)
        parts = list(exact_parts(cuts, tasks, [json.loads(json.dumps(index_part(task))) for task in tasks]))
        found = [item for part in parts for item in read_file(file, config, Counter(), part)]
        assert found == whole
        assert len(cuts[0]) > 1
        return whole, len(parts)

    return run


def pages(record: Callable[..., bytes], count: int, seed: int = 0) -> list[bytes]:
    """Records of 0.4 to 5 kB."""
    rng = random.Random(seed)
    return [
        record(n, b"<p>page %d %s</p>" % (n, rng.randbytes(rng.randrange(2000)).hex().encode())) for n in range(count)
    ]


@pytest.mark.parametrize("part_bytes", [500, 3000, 9000])
@pytest.mark.parametrize("packing", ["plain", "gz members", "zst frames", "gz in one", "gz cut anywhere"])
def test_crawls(same: Any, record: Any, packing: str, part_bytes: int) -> None:
    records = pages(record, 40)
    content = b"".join(records)
    made = {
        "plain": ("x.warc", content),
        "gz members": ("x.warc.gz", b"".join(map(gzip.compress, records))),
        "zst frames": ("x.warc.zst", b"".join(map(zstd, records))),
        "gz in one": ("x.warc.gz", gzip.compress(content)),
        "gz cut anywhere": (
            "x.warc.gz",
            b"".join(gzip.compress(content[at : at + 1777]) for at in range(0, len(content), 1777)),
        ),
    }[packing]
    whole, parts = same(*made, "warc", part_bytes)
    assert [item.url for item in whole] == [f"http://site.example/{n}" for n in range(40)]
    if packing == "gz in one":
        assert (parts == 1) == (part_bytes == 9000)
        assert parts <= 12
    else:
        assert parts > 1


@pytest.mark.parametrize("packed", [False, True])
def test_ids_that_occur_in_several_parts(same: Any, record: Any, packed: bool) -> None:
    records = pages(record, 20)
    records = [*records, *records[5:15], record(3), record(90, warc_type="request")]
    content = b"".join(map(gzip.compress, records)) if packed else b"".join(records)
    whole, _ = same("x.warc.gz" if packed else "x.warc", content, "warc", 4000)
    assert [item.reason for item in whole if isinstance(item, Problem)] == ["duplicate_record"] * 11


def test_a_crawl_within_a_record_is_no_record(same: Any, record: Any) -> None:
    inner = b"".join(pages(record, 30, seed=1))
    records = pages(record, 10)
    records[4] = record(4, inner, content_type="text/plain")
    whole, _ = same("x.warc", b"".join(records), "warc", 2000)
    assert len(whole) == 10
    packed = gzip.compress(record(5, b"".join(map(gzip.compress, pages(record, 30))), content_type="text/plain"), 0)
    records = [*map(gzip.compress, records), packed, gzip.compress(record(11))]
    assert len(same("x.warc.gz", b"".join(records), "warc", 2000)[0]) == 12


def test_garbage_and_wrong_lengths(same: Any, record: Any) -> None:
    records = pages(record, 30)
    for number in (3, 9, 10, 20):
        records[number] = records[number].replace(b"Content-Length: ", b"Content-Length: 9", 1)
    records[15] += b"garbage " * 700 + b"\r\n\r\n"
    records[25] = records[25].replace(b"\r\n", b"\n")
    for part_bytes in (700, 2500, 9000):
        whole, _ = same("x.warc", b"".join(records)[:-77], "warc", part_bytes)
    assert {item.reason for item in whole if isinstance(item, Problem)} >= {"bad_warc_length", "not_warc", "truncated"}


@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz", "x.warc.zst", "x.jsonl", "x.jsonl.gz", "x.jsonl.zst"])
@pytest.mark.parametrize("seed", range(2))
def test_random_damage(same: Any, record: Any, name: str, seed: int) -> None:
    rng = random.Random(seed)
    if "warc" in name:
        pieces = pages(record, 40, seed)
    else:
        pieces = [
            b'{"text": "%s", "id": %d}\n' % (rng.randbytes(rng.randrange(900)).hex().encode(), n) for n in range(80)
        ]
    groups = [b"".join(pieces[at : at + 3]) for at in range(0, len(pieces), 3)]
    if name.endswith("l.gz"):
        content = b"".join(pieces)
        groups = [content[at : at + 2500] for at in range(0, len(content), 2500)]
    pack = {"gz": gzip.compress, "st": zstd}.get(name[-3:].strip(".")[:2], bytes)
    content = bytearray(b"".join(map(pack, groups)))
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(content))
        content[at : at + rng.randrange(60)] = rng.randbytes(rng.randrange(60))
    form = "warc" if "warc" in name else "jsonl"
    for part_bytes in (800, 7000):
        same(name, bytes(content[: len(content) - rng.randrange(50)]), form, part_bytes)


@pytest.mark.parametrize("packing", ["plain", "members", "cut anywhere", "one", "utf-16"])
def test_lines_keep_their_numbers(same: Any, packing: str) -> None:
    lines = [b'{"text": "%s"}\n' % (b"line %d " % n * (n % 50 + 1)) for n in range(300)]
    lines[20] = lines[41] = b"\n"
    lines[100] = b'{"text": "%s"}\n' % (b"x" * 30_000)
    lines[101] = b"not json\n"
    content = b"".join(lines)
    name = "x.jsonl" if packing in ("plain", "utf-16") else "x.jsonl.gz"
    packed = {
        "plain": content,
        "members": b"".join(map(gzip.compress, lines)),
        "cut anywhere": b"".join(gzip.compress(content[at : at + 999]) for at in range(0, len(content), 999)),
        "one": gzip.compress(content),
        "utf-16": content.decode().encode("utf-16"),
    }[packing]
    for part_bytes in (300, 900):
        whole, parts = same(name, packed, "jsonl", part_bytes, max_record_bytes=20_000)
        assert parts == {"one": 3, "utf-16": 1}.get(packing, parts)
    assert [item.key for item in whole if isinstance(item, Record)][-1] == "300"
    reasons = [(item.reason, item.place["line"]) for item in whole if isinstance(item, Problem)]
    assert reasons == [("too_large", 101), ("not_json", 102)]


def test_arc_and_parquet(same: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    head = b"http://x.example/%d 192.0.2.1 20080102030405 text/html %d\n"
    bodies = [
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>page %d</p>" % n + b"x" * n * 40 for n in range(40)
    ]
    content = b"".join(head % (n, len(body)) + body + b"\n" for n, body in enumerate(bodies))
    assert len(same("x.arc", content, "arc", 3000)[0]) == 40
    table = pa.table({"text": [f"row {n} {random.Random(n).random()}" for n in range(2000)]})
    pq.write_table(table, tmp_path / "y.parquet", row_group_size=100)
    whole, parts = same("x.parquet", (tmp_path / "y.parquet").read_bytes(), "parquet", 9000)
    assert [item.key for item in whole] == [str(n + 1) for n in range(2000)]
    assert parts > 1
    assert same("x.parquet", (tmp_path / "y.parquet").read_bytes(), "parquet", 200)[1] == 20
    assert same("x.parquet", (tmp_path / "y.parquet").read_bytes()[:-30], "parquet", 9000)[1] == 1


def test_many_small_files_are_joined(tmp_path: Path, extract: Any) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04d}.jsonl").write_text(f'{{"text": "text {number}"}}\n')
    made = extract(tmp_path)
    assert [d.text for d in made.documents] == [f"text {n}" for n in range(2000)]
    assert 16 <= len(document_shards(made.artifact)) <= 20


def test_shards_depend_on_sizes_and_keep_the_order(tmp_path: Path) -> None:
    names = ["a.warc", "b.txt", "c.txt", "d.jsonl.gz", "e.html", "f.warc"]
    sizes = [70_000, 100, 100, 50_000, 900, 100]
    for name, size in zip(names, sizes, strict=True):
        (tmp_path / name).write_bytes(b"x" * size)
    forms = ["warc", "text", "text", "jsonl", "html", "warc"]
    files = [InputFile(tmp_path / name, name, form) for name, form in zip(names, forms, strict=True)]
    config = ExtractConfig(shard_bytes=10_000)
    parts = [part for parts in cut(files, config) for part in parts]
    assert [part.file.source for part in parts] == ["a.warc"] * 7 + ["b.txt", "c.txt"] + ["d.jsonl.gz"] * 10 + [
        "e.html",
        "f.warc",
    ]
    joined = shards(parts, config)
    assert [part for shard in joined for part in shard] == parts
    assert [len(shard) for shard in joined] == [1] * 7 + [2] + [1] * 10 + [2]


def test_the_stage_gives_the_same_documents_and_problems_whatever_the_size_of_shards(
    tmp_path: Path, extract: Any, record: Any
) -> None:
    records = pages(record, 60)
    records[7] += b"garbage\r\n\r\n"
    (tmp_path / "a.warc").write_bytes(b"".join([*records, records[3]]))
    lines = [b"broken\n" if n % 2 else b'{"text": "text %d"}\n' % n for n in range(3000)]
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines))
    whole, small = extract(tmp_path), extract(tmp_path, shard_bytes=4000)
    assert [d.to_line() for d in small.documents] == [d.to_line() for d in whole.documents]
    assert small.problems == whole.problems
    assert (small.counts, small.metrics) == (whole.counts, whole.metrics)
    assert len(document_shards(small.artifact)) > 20
    assert small.problems[-1] == {"file": str(tmp_path / "b.jsonl"), "reason": "not_listed", "problems": 500}
    first = list(read_documents(document_shards(small.artifact)[0]))
    assert 0 < len(first) < 60


@pytest.mark.parametrize("missing", [1, 4, 8, 12, 40])
def test_a_last_member_that_ends_early(same: Any, missing: int) -> None:
    rng = random.Random(1)
    lines = [b'{"text": "%s"}\n' % rng.randbytes(400).hex().encode() for _ in range(4)]
    # The last line goes on in the last member, whose check value is missing.
    content = b"".join(lines)
    members = gzip.compress(content[:-200]) + gzip.compress(content[-200:])
    whole, _ = same("x.jsonl.gz", members[:-missing], "jsonl", len(members) // 2)
    assert whole[-1].reason == "truncated"


def test_parts_of_one_large_member_keep_lines_and_ids(same: Any, record: Any) -> None:
    lines = b"".join(b'{"text": "line %d %s"}\n' % (n, b"x" * (n % 90)) for n in range(4000))
    assert same("x.jsonl.gz", gzip.compress(lines), "jsonl", 3000)[1] == 3
    records = pages(record, 60)
    nameless = [each.replace(b"WARC-Record-ID", b"X-Other", 1) for each in records[:30]]
    packed = gzip.compress(b"".join([*records, *records[20:30], *nameless]))
    whole, parts = same("x.warc.gz", packed[:-100], "warc", 400)
    assert 3 < parts <= 12
    assert len({item.key for item in whole if isinstance(item, Record)}) == sum(isinstance(i, Record) for i in whole)
    assert sum(isinstance(item, Problem) and item.reason == "duplicate_record" for item in whole) == 10


def test_files_are_not_cut_to_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcat.stages.data.extract.split.MIN_PART_BYTES", 64 << 10)
    (tmp_path / "a.warc").write_bytes(bytes(200_000))
    assert len(cut([InputFile(tmp_path / "a.warc", "a", "warc")], ExtractConfig(shard_bytes=20))[0]) == 3


def test_a_part_ends_before_its_end(tmp_path: Path) -> None:
    part = Part(InputFile(tmp_path / "x", "x", "warc"), end=Start(5, 7))
    assert part.includes(Start(4, 9))
    assert part.includes(Start(5, 6))
    assert not part.includes(Start(5, 7))
