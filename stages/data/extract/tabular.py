"""Records that are texts already: lines of JSON and rows of Parquet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from longcat.pipeline.errors import InputError
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import decode
from longcat.stages.data.extract.records import Problem, Record
from longcat.stages.data.extract.streams import Damage
from longcat.stages.data.extract.window import Window

ROWS_A_BATCH = 256
WHITESPACE = b" \t\r\n"


def read_json_lines(window: Window, config: ExtractConfig) -> Iterator[Record | Problem]:
    """Every line as a record; a problem for every line that is too long, no JSON object or without text."""
    number = 0
    while True:
        number += 1
        place = {"line": number}
        try:
            if window.at_end():
                return
            line = window.take_through(b"\n", config.max_record_bytes)
            if line is None:
                window.skip_line()
        except Damage as damage:
            yield Problem(damage.reason, damage.detail, place | {"offset": damage.offset})
            if not window.recover():
                return
            continue
        if line is None:
            yield Problem("too_large", f"the line is longer than {config.max_record_bytes} bytes", place)
        elif line.strip(WHITESPACE):
            yield _parse_line(line, config, place)


def _parse_line(line: bytes, config: ExtractConfig, place: dict[str, int]) -> Record | Problem:
    metadata: dict[str, Any] = {}
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        decoded = decode(line)
        if not decoded.replaced and decoded.encoding == "utf-8":
            return Problem("not_json", str(error), place)
        try:
            values = orjson.loads(decoded.text)
        except orjson.JSONDecodeError as second:
            return Problem("not_json", str(second), place)
        metadata = {"encoding": decoded.encoding, "replaced_characters": decoded.replaced}
    if not isinstance(values, dict):
        return Problem("not_json", f"a JSON object is needed, found {type(values).__name__}", place)
    return _to_record(values, config, place, str(place["line"]), metadata)


def _to_record(
    values: dict[str, Any], config: ExtractConfig, place: dict[str, int], key: str, metadata: dict[str, Any]
) -> Record | Problem:
    text, original, url, language = (
        values.get(name) for name in (config.text_field, config.id_field, config.url_field, "language")
    )
    url = url if isinstance(url, str) else None
    if not isinstance(text, str):
        return Problem("missing_text", f"{config.text_field!r} holds no text", place, key, url)
    given = values.get("metadata")
    merged = {**(given if isinstance(given, dict) else {}), **metadata}
    if isinstance(original, (str, int)):
        merged["original_id"] = str(original)
    return Record(
        key, "text", text, place, url=url, language=language if isinstance(language, str) else None, metadata=merged
    )


def read_parquet(path: Path, config: ExtractConfig) -> Iterator[Record | Problem]:
    """Every row as a record; a problem for every row without text, and one where the file cannot be read on.

    Raises:
        InputError: the file has no such text column; names those it has.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if config.text_field not in names:
                hint = f"give --text-field; columns: {', '.join(names)}"
                raise InputError(f"there is no column {config.text_field!r}", where=str(path), hint=hint)
            wanted = (config.text_field, config.id_field, config.url_field, "language")
            columns = [name for name in dict.fromkeys(wanted) if name in names]
            for batch in file.iter_batches(batch_size=ROWS_A_BATCH, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield _from_row(values, config, number)
    except (pa.ArrowException, OSError) as error:
        yield Problem("corrupt_parquet", str(error).splitlines()[0][:200], {"row": number + 1})


def _from_row(values: dict[str, Any], config: ExtractConfig, number: int) -> Record | Problem:
    place = {"row": number}
    text = values.get(config.text_field)
    if isinstance(text, bytes):
        decoded = decode(text)
        values[config.text_field], text = decoded.text, decoded.text
    if isinstance(text, str) and len(text) > config.max_record_bytes:
        return Problem("too_large", f"{len(text)} characters, the limit is {config.max_record_bytes}", place)
    return _to_record(values, config, place, str(number), {})
