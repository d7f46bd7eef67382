"""Records that are texts already: lines of JSON, and what a line or a row of named values means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import decode
from longcat.stages.data.extract.records import Problem, Record
from longcat.stages.data.extract.streams import Damage
from longcat.stages.data.extract.window import Window

# JSON is read deeper than it can be written.
MAX_METADATA_LEVELS = 200
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
    return to_record(values, config, place, str(place["line"]), metadata)


def to_record(
    values: dict[str, Any], config: ExtractConfig, place: dict[str, int], key: str, metadata: dict[str, Any]
) -> Record | Problem:
    """The record that named values stand for; a problem where the text is none."""
    text, original, url, language = (
        values.get(name) for name in (config.text_field, config.id_field, config.url_field, "language")
    )
    url = url if isinstance(url, str) else None
    if not isinstance(text, str):
        return Problem("missing_text", f"{config.text_field!r} holds no text", place, key, url)
    given = values.get("metadata")
    if not _fits(given):
        return Problem("bad_metadata", f"nested over {MAX_METADATA_LEVELS} levels deep", place, key, url)
    merged = {**(given if isinstance(given, dict) else {}), **metadata}
    if isinstance(original, (str, int)):
        merged["original_id"] = str(original).lower() if isinstance(original, bool) else str(original)
    return Record(
        key, "text", text, place, url=url, language=language if isinstance(language, str) else None, metadata=merged
    )


def _fits(metadata: Any) -> bool:
    """Whether values are nested no deeper than what writes them can follow."""
    level = [metadata]
    for _ in range(MAX_METADATA_LEVELS):
        level = [item for value in level for item in _items(value)]
        if not level:
            return True
    return False


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
