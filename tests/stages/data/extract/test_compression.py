"""Files compressed by bz2 and xz: whole, of several streams, damaged, truncated, bombs."""

from __future__ import annotations

import bz2
import lzma
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

PACK: dict[str, Callable[[bytes], bytes]] = {"bz2": bz2.compress, "xz": lzma.compress}


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"text": "text %d", "x": "%s"}\n' % (number, b"%d" % number * 50) for number in numbers)


@pytest.fixture(params=sorted(PACK))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_format_may_be_compressed(extract_bytes: Any, record: Callable[..., bytes], kind: str) -> None:
    pack = PACK[kind]
    assert extract_bytes(f"a.warc.{kind}", pack(record(3) + record(4))).pages == [3, 4]
    assert extract_bytes(f"a.json.{kind}", pack(lines(1))).documents[0].text == "text 1"
    assert extract_bytes(f"a.txt.{kind}", pack(b"a text")).documents[0].text == "a text"
    assert extract_bytes(f"a.csv.{kind}", pack(b"text\na cell\n")).documents[0].text == "a cell"
    # The content decides, not the name.
    assert extract_bytes("b.jsonl", pack(lines(2))).documents[0].text == "text 2"


def test_several_streams_are_joined(extract_bytes: Any, kind: str) -> None:
    filling = bytes(8) if kind == "xz" else b""
    made = extract_bytes(f"a.jsonl.{kind}", PACK[kind](lines(1)) + filling + PACK[kind](lines(2)) + filling)
    assert [d.text for d in made.documents] == ["text 1", "text 2"]
    assert made.counts["dropped"] == {}


def test_a_damaged_stream_costs_itself(extract_bytes: Any, kind: str) -> None:
    parts = [bytearray(PACK[kind](lines(*range(number * 200, number * 200 + 200)))) for number in range(3)]
    middle = len(parts[1]) // 2
    parts[1][middle : middle + 20] = bytes(20)
    made = extract_bytes(f"a.jsonl.{kind}", b"".join(map(bytes, parts)))
    numbers = [int(d.text.split()[1]) for d in made.documents]
    assert set(range(200)) | set(range(400, 600)) <= set(numbers)
    assert made.problems[0]["reason"] == f"corrupt_{kind}"
    assert made.problems[0]["offset"] == len(parts[0])


def test_a_file_that_ends_early(extract_bytes: Any, kind: str) -> None:
    whole = PACK[kind](lines(1)) + PACK[kind](lines(*range(2, 300)))
    made = extract_bytes(f"a.jsonl.{kind}", whole[:-20])
    assert made.documents[0].text == "text 1"
    assert [p["reason"] for p in made.problems] == ["truncated"]


def test_a_bomb_is_bounded_in_memory_and_named(extract_bytes: Any, kind: str) -> None:
    bomb = PACK[kind](bytes(200 << 20)) + PACK[kind](lines(5))
    tracemalloc.start()
    made = extract_bytes(f"a.jsonl.{kind}", bomb, max_record_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.text for d in made.documents] == ["text 5"]
    assert "expansion_limit" in {p["reason"] for p in made.problems}
    assert peak < 64 << 20
