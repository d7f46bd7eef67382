"""Rows of Parquet as records; what is damaged costs the rows it lies in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import is_fault
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import decode
from longcat.stages.data.extract.records import Problem, Record
from longcat.stages.data.extract.tabular import to_record

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_A_BATCH = 256
# No page of Parquet can be this large: a file that asks for so much memory is damaged, and the machine is not short.
IMPOSSIBLE_BYTES = 1 << 40
_BEYOND = re.compile(r"<value out of range: (-?\d+)>")
_CLAIM = re.compile(r"size (\d+)")


class _Bad:
    """A value that cannot be read, and why."""

    def __init__(self, detail: str) -> None:
        self.detail = detail


def read_parquet(stream: BinaryIO, name: str, config: ExtractConfig) -> Iterator[Record | Problem]:
    """Every row as a record; a problem for every row without text, and one for every stretch that cannot be read.

    Raises:
        InputError: the file has no such text column; names those it has.
        MachineError: the file could not be read.
        MemoryError: there is not enough of it.
    """
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(stream) as file:
            columns = _columns(file, name, config)
            for group in range(file.num_row_groups):
                first = row
                try:
                    for item in _read_group(file, group, columns, config, row):
                        row += 1
                        yield item
                except _damage() as error:
                    yield _corrupt(error, row)
                    row = max(row, first + int(file.metadata.row_group(group).num_rows))
    except _damage() as error:
        yield _corrupt(error, row)


def _damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises for bytes that make no sense."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError)


def _corrupt(error: Exception, rows_before: int) -> Problem:
    """The problem for a stretch that cannot be read; raises again what is no damage."""
    claim = _CLAIM.search(str(error)) if isinstance(error, MemoryError) else None
    if is_fault(error) and not (claim and int(claim[1]) > IMPOSSIBLE_BYTES):
        raise error
    lines = str(error).splitlines() or [type(error).__name__]
    return Problem("corrupt_parquet", lines[0][:200], {"row": rows_before + 1})


def _columns(file: pq.ParquetFile, name: str, config: ExtractConfig) -> list[str]:
    names = file.schema_arrow.names
    if config.text_field not in names:
        hint = f"give --text-field; columns: {', '.join(names)}"
        raise InputError(f"there is no column {config.text_field!r}", where=name, hint=hint)
    wanted = (config.text_field, config.id_field, config.url_field, "language")
    return [column for column in dict.fromkeys(wanted) if column in names]


def _read_group(
    file: pq.ParquetFile, group: int, columns: list[str], config: ExtractConfig, rows_before: int
) -> Iterator[Record | Problem]:
    """The rows of one row group."""
    number = rows_before
    for batch in file.iter_batches(batch_size=ROWS_A_BATCH, row_groups=[group], columns=columns):
        # Of columns of the same name the first one counts.
        places = {name: batch.schema.get_all_field_indices(name)[0] for name in columns}
        values = {
            name: _values(batch.column(place), as_text=name == config.id_field != config.text_field)
            for name, place in places.items()
        }
        for index in range(batch.num_rows):
            number += 1
            yield _to_record({name: found[index] for name, found in values.items()}, config, number)


def _to_record(values: dict[str, Any], config: ExtractConfig, number: int) -> Record | Problem:
    place = {"row": number}
    for name, value in values.items():
        if isinstance(value, _Bad):
            return Problem("bad_value", f"{name!r}: {value.detail}", place, str(number))
    text, metadata = values.get(config.text_field), {}
    if isinstance(text, bytes):
        decoded = decode(text)
        values[config.text_field], text = decoded.text, decoded.text
        if decoded.replaced:
            metadata = {"encoding": decoded.encoding, "replaced_characters": decoded.replaced}
    if isinstance(text, str) and len(text) > config.max_record_bytes:
        return Problem("too_large", f"{len(text)} characters, the limit is {config.max_record_bytes}", place)
    return to_record(_told_as_text(values, config), config, place, str(number), metadata)


def _told_as_text(values: dict[str, Any], config: ExtractConfig) -> dict[str, Any]:
    """Values with what is bytes, beside the text, made text: UTF-8 where it is, else hexadecimal digits."""
    return {name: _text_of(value) if isinstance(value, bytes) else value for name, value in values.items()}


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _values(column: pa.Array, *, as_text: bool) -> list[Any]:
    """Texts, bytes and whole numbers of a column, and with `as_text` other plain values as text; the rest is None.

    A value that cannot be read is a `_Bad`.
    """
    import pyarrow as pa

    types = pa.types
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_nested(kind) or types.is_floating(kind):
        return [None] * len(column)
    texts = (types.is_string, types.is_large_string, types.is_string_view)
    raw = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    if any(check(kind) for check in (*texts, *raw, types.is_integer)):
        return _as_python(column)
    return _as_text(column) if as_text else [None] * len(column)


def _as_python(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_one(value) for value in column]


def _one(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        return _Bad(f"not UTF-8 (byte {error.start})")
    except (ValueError, OverflowError) as error:
        return _Bad(str(error).splitlines()[0][:200])


def _plain(text: str | None) -> str | None:
    found = _BEYOND.fullmatch(text) if text else None
    return found[1] if found else text


def _as_text(column: pa.Array) -> list[str | None]:
    """Dates, times, durations, decimals and truth values as text; a count of units where no calendar holds them."""
    import pyarrow as pa

    try:
        return [_plain(text) for text in column.cast(pa.string()).to_pylist()]
    except (pa.ArrowException, ValueError):
        pass
    if pa.types.is_temporal(column.type):
        whole = pa.int32() if column.type.bit_width == 32 else pa.int64()
        return [None if count is None else str(count) for count in column.view(whole).to_pylist()]
    return [None] * len(column)
