"""Benchmark items, which must not be in the documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from longcat.pipeline.errors import InputError
from longcat.pipeline.faults import open_input
from longcat.stages.data.decontaminate.config import BenchmarkFile

MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One field of one item, searched as one text."""

    benchmark: str
    item: str
    field: str
    text: str


def read_parts(benchmark: BenchmarkFile, id_field: str) -> Iterator[Part]:
    """Read the texts of a benchmark in file order; a list of texts gives one part per entry.

    Raises:
        InputError: the file is missing, a line is not a JSON object or lacks a field, or a field is not text.
    """
    number = -1
    for number, record in enumerate(_records(benchmark)):
        where = f"{benchmark.path}:{number + 1}"
        identifier = str(record.get(id_field, number))
        for field in benchmark.fields:
            if field not in record:
                known = ", ".join(sorted(record))
                raise InputError(f"the item has no field {field!r}", where=where, hint=f"its fields: {known}")
            for name, text in _texts(field, record[field], where):
                yield Part(benchmark.name, identifier, name, text)
    if number < 0:
        raise InputError("the benchmark has no items", where=str(benchmark.path))


def _records(benchmark: BenchmarkFile) -> Iterator[dict[str, Any]]:
    try:
        with open_input(benchmark.path) as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{benchmark.path}:{number}"
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"a line of over {MAX_LINE_BYTES} bytes", where=where)
                yield _parse(line, where)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(benchmark.path)) from None


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}", where=where) from None
    if not isinstance(record, dict):
        raise InputError("not a JSON object", where=where)
    return record


def _texts(field: str, value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        yield from ((f"{field}.{number}", entry) for number, entry in enumerate(value))
    else:
        raise InputError(f"{field!r} is neither a string nor a list of strings", where=where)
