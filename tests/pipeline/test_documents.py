"""Document shards: round trip, deterministic bytes, named damage."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from longcat.pipeline.documents import Document, document_batches, read_documents, shard_name, write_documents
from longcat.pipeline.errors import IntegrityError

DOCUMENTS = [
    Document("a", "plain", "s"),
    Document("b", "línea\n\u2028 \x00 \U0001f600", "s", "http://x/", "es", {"n": [1, {"x": None}]}),
]


def test_round_trip_and_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / shard_name(0), tmp_path / shard_name(1)
    assert write_documents(one, DOCUMENTS) == 2
    write_documents(two, iter(DOCUMENTS))
    assert list(read_documents(one)) == DOCUMENTS
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("limits", "sizes"), [((2,), [2, 2, 1]), ((9,), [5]), ((9, 4), [2, 1, 2]), ((2, 6), [2, 1, 2]), ((1, 1), [1] * 5)]
)
def test_batches_end_with_the_document_that_reaches_a_limit(
    tmp_path: Path, limits: tuple[int, ...], sizes: list[int]
) -> None:
    documents = [Document(str(number), "x" * length, "s") for number, length in enumerate((3, 1, 8, 0, 2))]
    path = tmp_path / shard_name(0)
    write_documents(path, documents)
    batches = list(document_batches(path, *limits))
    assert [len(batch) for batch in batches] == sizes
    assert [document for batch in batches for document in batch] == documents


def test_an_empty_shard(tmp_path: Path) -> None:
    assert write_documents(tmp_path / "e.jsonl.zst", []) == 0
    assert list(read_documents(tmp_path / "e.jsonl.zst")) == []


def test_a_failing_source_leaves_no_shard(tmp_path: Path) -> None:
    def broken() -> object:
        yield DOCUMENTS[0]
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError):
        write_documents(tmp_path / "x.jsonl.zst", broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_shard_is_damage(tmp_path: Path) -> None:
    path = tmp_path / shard_name(0)
    write_documents(path, (Document(str(i), f"text number {i} " * 20, "s") for i in range(200)))
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="shard-00000"):
            list(read_documents(path))


@pytest.mark.parametrize(
    "line", [b"not json\n", b'{"id": "x"}\n', b'{"id":"x","text":"","source":"","more":1}\n', b"[]\n"]
)
def test_a_line_that_is_not_a_document_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / shard_name(0)
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(DOCUMENTS[0].to_line() + line))
    with pytest.raises(IntegrityError, match=r"shard-00000\.jsonl\.zst:2"):
        list(read_documents(path))
