"""Rows of Parquet as records; damage affects only the rows it is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import is_fault
from longcat.stages.data.extract.arrow_values import Unreadable, json_values, text_charset, text_of_bytes
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.fields import is_kept, to_record
from longcat.stages.data.extract.parts import Extent, Part, Start
from longcat.stages.data.extract.records import Problem, Record

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROWS_A_BATCH = 256
# No Parquet page can be this large: a file that requests this much memory is damaged.
IMPOSSIBLE_BYTES = 1 << 40
_CLAIM = re.compile(r"size (\d+)")


def read_parquet(stream: BinaryIO, part: Part, config: ExtractConfig) -> Iterator[Record | Problem]:
    """Yield every row of the row groups that start in a part as a record.

    Gives a problem for every row without text, and for every unreadable range or column.

    Raises:
        InputError: the file has no such text column; names those it has.
        MachineError: the file could not be read.
        MemoryError: not enough memory.
    """
    import pyarrow.parquet as pq

    row = 0
    try:
        with pq.ParquetFile(stream) as file:
            columns = _columns(file, str(part.file.path), config)
            for group in range(file.num_row_groups):
                metadata = file.metadata.row_group(group)
                if part.start <= Start(_start_of(metadata)) and part.includes(Start(_start_of(metadata))):
                    yield from _read_group(_Group(file, group, row), columns, config)
                row += int(metadata.num_rows)
    except _damage() as error:
        yield _corrupt(error, row)


def index_row_groups(stream: BinaryIO, part: Part) -> tuple[Start | None, Extent]:
    """Where the first row group of a part starts; see `Format.index`. A file without a footer is one part."""
    import pyarrow.parquet as pq

    extent = Extent(part)
    try:
        with pq.ParquetFile(stream) as file:
            starts = sorted(_start_of(file.metadata.row_group(number)) for number in range(file.num_row_groups))
    except _damage() as error:
        _corrupt(error, 0)
        return None, extent
    inside = [start for start in starts if start >= part.start.offset and part.includes(Start(start))]
    after = [start for start in starts if not part.includes(Start(start))]
    extent.stop = Start(after[0]) if after else None
    return (Start(inside[0]) if inside else None), extent


def _damage() -> tuple[type[Exception], ...]:
    """Exceptions that pyarrow raises for invalid bytes."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError)


def _corrupt(error: Exception, rows_before: int) -> Problem:
    """Problem for an unreadable range; re-raises errors that are not damage."""
    claim = _CLAIM.search(str(error)) if isinstance(error, MemoryError) else None
    if is_fault(error) and not (claim and int(claim[1]) > IMPOSSIBLE_BYTES):
        raise error
    lines = str(error).splitlines() or [type(error).__name__]
    return Problem("corrupt_parquet", lines[0][:200], {"row": rows_before + 1})


def _start_of(group: Any) -> int:
    """File offset of the first byte of a row group; 0 if it has no columns."""
    columns = [group.column(number) for number in range(min(group.num_columns, 1))]
    return min((column.dictionary_page_offset or column.data_page_offset for column in columns), default=0)


def _columns(file: pq.ParquetFile, name: str, config: ExtractConfig) -> list[str]:
    """Columns to read, the text column first."""
    names = file.schema_arrow.names
    if config.text_field not in names:
        hint = f"give --text-field; columns: {', '.join(names)}"
        raise InputError(f"there is no column {config.text_field!r}", where=name, hint=hint)
    wanted = dict.fromkeys((config.text_field, config.id_field, config.url_field, "language", "metadata"))
    kept = [column for column in names if column in wanted or is_kept(column, config.metadata_fields)]
    return list(dict.fromkeys((config.text_field, *kept)))


@dataclass(frozen=True)
class _Group:
    """One row group, and the number of rows before it."""

    file: pq.ParquetFile
    number: int
    rows_before: int

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        yield from self.file.iter_batches(batch_size=ROWS_A_BATCH, row_groups=[self.number], columns=columns)


def _read_group(group: _Group, columns: list[str], config: ExtractConfig) -> Iterator[Record | Problem]:
    """Rows of one row group; a damaged column other than the text is left out."""
    row = group.rows_before
    try:
        for item in _rows(group, columns, config):
            row += 1
            yield item
        return
    except _damage() as error:
        problem = _corrupt(error, row)
    bad = [column for column in columns if not _is_readable(group, column)]
    if not bad or config.text_field in bad:
        yield problem
        return
    for column in bad:
        yield Problem("corrupt_parquet", f"column {column!r}: {problem.detail}"[:200], problem.place)
    try:
        good = [column for column in columns if column not in bad]
        for item in islice(_rows(group, good, config), row - group.rows_before, None):
            row += 1
            yield item
    except _damage() as error:
        yield _corrupt(error, row)


def _is_readable(group: _Group, column: str) -> bool:
    try:
        for _ in group.batches([column]):
            pass
    except _damage() as error:
        _corrupt(error, 0)
        return False
    return True


def _rows(group: _Group, columns: list[str], config: ExtractConfig) -> Iterator[Record | Problem]:
    number = group.rows_before
    for batch in group.batches(columns):
        # Of columns with the same name the first one is used.
        places = {name: batch.schema.get_all_field_indices(name)[0] for name in columns}
        values = {name: json_values(batch.column(place)) for name, place in places.items()}
        charset = text_charset(batch.column(places[config.text_field]).type)
        if charset is None:
            values[config.text_field] = [None] * batch.num_rows
        for index in range(batch.num_rows):
            number += 1
            yield _to_record({name: found[index] for name, found in values.items()}, config, number, charset)


def _to_record(values: dict[str, Any], config: ExtractConfig, number: int, charset: str | None) -> Record | Problem:
    place = {"row": number}
    for name, value in values.items():
        if isinstance(value, Unreadable):
            return Problem("bad_value", f"{name!r}: {value.detail}", place, str(number))
        if isinstance(value, bytes) and name != config.text_field:
            values[name] = text_of_bytes(value)
    content = values[config.text_field]
    if isinstance(content, (str, bytes)) and len(content) > config.max_record_bytes:
        unit = "bytes" if isinstance(content, bytes) else "characters"
        return Problem("too_large", f"{len(content)} {unit}, the limit is {config.max_record_bytes}", place)
    return to_record(values, config, place, charset=charset)
