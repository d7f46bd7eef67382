"""Parquet of every kind: damage affects only its rows or column; columns that are no text are kept as JSON values."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

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
def test_bytes_that_are_not_utf8_are_replaced_and_counted(rows: Any, kind: pa.DataType) -> None:
    made = rows({"text": raw_text([b"first", BAD, None, b"last"], kind)})
    assert [d.text for d in made.documents] == ["first", "good \ufffd\ufffd bad", "last"]
    assert made.documents[1].metadata["replaced_characters"] == 2
    assert made.metrics["replaced_characters"] == 2
    assert [(p["reason"], p["row"]) for p in made.problems] == [("missing_text", 3)]


def test_a_dictionary_that_is_not_utf8(rows: Any) -> None:
    made = rows({"text": dictionary([b"first", BAD, b"last"])})
    assert [d.text for d in made.documents] == ["first", "good \ufffd\ufffd bad", "last"]


def test_a_text_column_in_another_encoding_is_decoded(rows: Any) -> None:
    text = "Élève à l’école — déjà vu : où êtes-vous ? Les élèves sont arrivés à Noël."
    made = rows({"text": raw_text([text.encode("cp1252")], pa.string())})
    assert (made.documents[0].text, made.documents[0].metadata["encoding"]) == (text, "windows-1252")


@pytest.mark.parametrize("column", ["url", "id", "language", "score"])
def test_another_column_that_is_not_utf8_is_hexadecimal(rows: Any, column: str) -> None:
    made = rows({"text": ["one", "two", "three"], column: raw_text([b"a", BAD, None], pa.string())})
    assert [d.text for d in made.documents] == ["one", "two", "three"]
    second = made.documents[1]
    found = {"url": second.url, "language": second.language, "id": second.metadata.get("original_id")}
    assert found.get(column, second.metadata.get(column)) == BAD.hex()


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
    (pa.array([1.5, float("nan")]), ["1.5", "nan"]),
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
def test_a_number_as_url_or_language_is_kept_in_the_metadata(rows: Any, column: str) -> None:
    made = rows({"text": ["one", "two"], column: pa.array([5, None])})
    assert [(d.url, d.language) for d in made.documents] == [(None, None)] * 2
    assert [d.metadata.get(column) for d in made.documents] == [5, None]


def test_every_column_is_kept_in_the_metadata(rows: Any) -> None:
    columns = {
        "text": ["one"],
        "score": [1.5],
        "tokens": [7],
        "dump": pa.array(["CC-MAIN"]).dictionary_encode(),
        "date": [DATE],
        "blob": [b"\xff\x00"],
        "flags": [[True, False]],
        "embedding": pa.array([[0.5, 0.25]], pa.list_(pa.float32())),
        "nested": [{"a": {"b": ["c", None]}, "when": datetime.datetime(2024, 1, 2, 3, 4, 5)}],
        "pairs": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "metadata": [{"score": 2.5, "own": "yes"}],
    }
    (document,) = rows(columns).documents
    assert document.metadata == {
        "kind": "text",
        "score": 2.5,  # the record's own metadata is on top
        "own": "yes",
        "tokens": 7,
        "dump": "CC-MAIN",
        "date": "2024-01-02",
        "blob": "ff00",
        "flags": [True, False],
        "embedding": [0.5, 0.25],
        "nested": {"a": {"b": ["c", None]}, "when": "2024-01-02 03:04:05.000000"},
        "pairs": {"k": 1},
    }


def test_metadata_fields_chooses_columns(tmp_path: Path, extract: Any) -> None:
    pq.write_table(pa.table({"text": ["one"], "score": [1], "score_2": [2], "other": [3]}), tmp_path / "a.parquet")
    made = extract(tmp_path / "a.parquet", metadata_fields=["score*"])
    assert made.documents[0].metadata == {"kind": "text", "score": 1, "score_2": 2}
    assert extract(tmp_path / "a.parquet", metadata_fields=[]).documents[0].metadata == {"kind": "text"}


def test_a_damaged_column_costs_itself_alone(tmp_path: Path, extract: Any) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"row {n}" for n in range(600)], "score": [float(n * 7919 % 1009) for n in range(600)]})
    pq.write_table(table, path, row_group_size=300, use_dictionary=False, compression="zstd")
    column = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    made = extract(path)
    assert [d.text for d in made.documents] == table["text"].to_pylist()
    assert ["score" in d.metadata for d in made.documents] == [True] * 300 + [False] * 300
    assert [(p["reason"], p["row"]) for p in made.problems] == [("corrupt_parquet", 301)]
    assert "column 'score'" in made.problems[0]["detail"]


def test_html_in_a_column(tmp_path: Path, extract: Any) -> None:
    page = "<html><title>T</title><body><nav>menu</nav><p>Some text of a page, déjà vu.</p></body></html>"
    table = pa.table({"html": [page], "raw": [page.encode("cp1252")]})
    pq.write_table(table, tmp_path / "a.parquet")
    for column in ("html", "raw"):
        made = extract(tmp_path / "a.parquet", text_field=column, field_kind="html", metadata_fields=[])
        assert "Some text of a page, déjà vu." in made.documents[0].text
        assert (made.documents[0].metadata["title"], made.documents[0].metadata["kind"]) == ("T", "html")


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
