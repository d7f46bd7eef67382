"""Parquet of every kind: damage costs the rows it lies in; columns that are no text are read as text or left out."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longcat.stages.data.extract.parquet import _corrupt

BAD = b"good \xff\xfe bad"


def raw_text(values: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """Text that says it is UTF-8 and need not be."""
    large = kind in (pa.large_string(),)
    return pa.array(values, pa.large_binary() if large else pa.binary()).view(kind)


def dictionary(values: list[bytes]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(range(len(values)), pa.int32()), raw_text(values, pa.string()))


@pytest.fixture
def rows(tmp_path: Path, extract: Any) -> Any:
    """Run the stage over one table, beside a good file."""

    def run(columns: dict[str, Any], **options: Any) -> Any:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / "a.parquet", **options)
        pq.write_table(pa.table({"text": ["of the good file"]}), folder / "b.parquet")
        made = extract(folder)
        assert made.documents[-1].text == "of the good file"
        made.documents.pop()
        return made

    return run


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_text_that_is_not_utf8_costs_its_row(rows: Any, kind: pa.DataType) -> None:
    made = rows({"text": raw_text([b"first", BAD, None, b"last"], kind)})
    assert [d.text for d in made.documents] == ["first", "last"]
    assert [(p["reason"], p["row"]) for p in made.problems] == [("bad_value", 2), ("missing_text", 3)]
    assert made.problems[0]["detail"] == "'text': not UTF-8 (byte 5)"


def test_a_dictionary_that_is_not_utf8_costs_its_rows(rows: Any) -> None:
    made = rows({"text": dictionary([b"first", BAD, b"last"])})
    assert [d.text for d in made.documents] == ["first", "last"]


@pytest.mark.parametrize("column", ["url", "id", "language"])
def test_another_column_that_is_not_utf8_costs_its_row(rows: Any, column: str) -> None:
    made = rows({"text": ["one", "two", "three"], column: raw_text([b"a", BAD, None], pa.string())})
    assert [d.text for d in made.documents] == ["one", "three"]
    assert made.counts["dropped"] == {"bad_value": 1}


BEYOND = 1 << 62
DATE = datetime.date(2024, 1, 2)
IDS = [
    (pa.array([1, BEYOND], pa.timestamp("ns")), ["1970-01-01 00:00:00.000000001", "2116-02-20 23:53:38.427387904"]),
    (pa.array([1, BEYOND >> 10], pa.timestamp("ms")), ["1970-01-01 00:00:00.001", str(BEYOND >> 10)]),
    (pa.array([1, 1 << 50], pa.timestamp("s")), ["1970-01-01 00:00:01.000", str(1000 << 50)]),
    (pa.array([1, 2], pa.timestamp("us", tz="Mars/Olympus")), ["1", "2"]),
    (pa.array([0, None], pa.timestamp("s", tz="UTC")), ["1970-01-01 00:00:00.000Z", None]),
    (pa.array([1, BEYOND], pa.duration("ns")), ["1", str(BEYOND)]),
    (pa.array([DATE, None]), ["2024-01-02", None]),
    (pa.array([0, 2_000_000_000], pa.date32()), ["1970-01-01", "2000000000"]),
    (pa.array([datetime.time(1, 2, 3), None]), ["01:02:03.000000", None]),
    (pa.array([decimal.Decimal("1.50"), decimal.Decimal("-2.25")]), ["1.50", "-2.25"]),
    (pa.array([decimal.Decimal(10) ** 70, None], pa.decimal256(76)), [str(10**70), None]),
    (pa.array([True, None]), ["true", None]),
    (pa.array([1, (1 << 64) - 1], pa.uint64()), ["1", str((1 << 64) - 1)]),
    (pa.array([b"abc", b"\xff\x00"]), ["abc", "ff00"]),
    (pa.array([b"ab", b"\xff\x00"], pa.binary(2)), ["ab", "ff00"]),
    (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    (pa.array([None, None]), [None, None]),
    (pa.array([1.5, float("nan")]), [None, None]),
    (pa.array([[1], None]), [None, None]),
    (pa.array([{"a": 1}, None]), [None, None]),
    (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), [None, None]),
]


@pytest.mark.parametrize(("ids", "expected"), IDS, ids=[str(ids.type) for ids, _ in IDS])
def test_ids_of_every_kind_are_text_or_left_out(rows: Any, ids: pa.Array, expected: list[str | None]) -> None:
    made = rows({"text": ["one", "two"], "id": ids})
    assert [d.text for d in made.documents] == ["one", "two"]
    assert [d.metadata.get("original_id") for d in made.documents] == expected


@pytest.mark.parametrize("column", ["url", "language"])
@pytest.mark.parametrize("values", [ids for ids, _ in IDS[:10]], ids=[str(ids.type) for ids, _ in IDS[:10]])
def test_other_columns_that_are_no_text_are_left_out(rows: Any, column: str, values: pa.Array) -> None:
    made = rows({"text": ["one", "two"], column: values})
    assert [(d.url, d.language) for d in made.documents] == [(None, None)] * 2


@pytest.mark.parametrize("values", [ids for ids, _ in IDS if ids.type not in (pa.binary(), pa.binary(2))][:14])
def test_a_text_column_that_is_no_text_costs_its_rows(rows: Any, values: pa.Array) -> None:
    if pa.types.is_dictionary(values.type):
        pytest.skip("a dictionary of texts is text")
    assert rows({"text": values}).counts["dropped"] == {"missing_text": 2}


def test_of_two_columns_of_one_name_the_first_counts(tmp_path: Path, extract: Any) -> None:
    table = pa.Table.from_arrays([pa.array(["one"]), pa.array(["two"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert [d.text for d in extract(tmp_path / "a.parquet").documents] == ["one"]


def test_a_damaged_row_group_costs_its_rows(tmp_path: Path, extract: Any) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"row number {number} {number * 7919 % 1009}" for number in range(3000)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=1000, use_dictionary=False, compression="zstd")
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    made = extract(path)
    assert [d.text for d in made.documents] == texts[:1000] + texts[2000:]
    assert [(p["reason"], p["row"]) for p in made.problems] == [("corrupt_parquet", 1001)]


def test_memory_that_no_page_can_need_is_damage_and_other_is_not() -> None:
    assert _corrupt(pa.ArrowMemoryError("malloc of size 9223372036854775807 failed"), 4).place == {"row": 5}
    with pytest.raises(MemoryError):
        _corrupt(pa.ArrowMemoryError("malloc of size 1048576 failed"), 0)


LINES: list[tuple[bytes, str | None, str]] = [
    (b'{"text": "a", "id": 7}', "7", ""),
    (b'{"text": "a", "id": 18446744073709551615}', "18446744073709551615", ""),
    (b'{"text": "a", "id": 123456789012345678901234567890}', None, ""),
    (b'{"text": "a", "id": true}', "true", ""),
    (b'{"text": "a", "id": {"x": [1]}}', None, ""),
    (b'{"text": "a", "id": 1.5}', None, ""),
    (b'{"text": "a", "url": 5, "language": ["en"], "metadata": 3}', None, ""),
    (b'{"text": "a", "metadata": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", None, "bad_metadata"),
    (b'{"text": "a", "metadata": ' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}", None, ""),
    (b'{"text": "\\ud800 alone"}', None, "not_json"),
    (b'{"text": "a", "id": NaN}', None, "not_json"),
    (b'{"text": "a", "id": Infinity}', None, "not_json"),
    (b'{"text": ["a"]}', None, "missing_text"),
    (b'{"text": 5}', None, "missing_text"),
]


@pytest.mark.parametrize(("line", "original_id", "reason"), LINES)
def test_values_of_json_lines(extract_bytes: Any, line: bytes, original_id: str | None, reason: str) -> None:
    made = extract_bytes("a.jsonl", line + b'\n{"text": "the next one"}\n')
    assert made.documents[-1].text == "the next one"
    assert made.counts["dropped"] == ({reason: 1} if reason else {})
    if not reason:
        first = made.documents[0]
        assert (first.metadata.get("original_id"), first.url, first.language) == (original_id, None, None)
        assert orjson.loads(first.to_line())["text"] == "a"
