"""Formatting of manifest and configuration values for display, without Python notation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Keys that identify a record better than its index.
NAMES = ("label", "name", "source", "key")
LONGEST_LIST = 16


def written(value: Any, *, exact: bool = False) -> str:
    """A plain value or a list of them; `exact` keeps every digit, so that different values look different."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return repr(value) if exact else number(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {written(item, exact=exact)}" for key, item in value.items()) or "none"
    if isinstance(value, Sequence):
        more = [f"{len(value) - LONGEST_LIST} more"] if len(value) > LONGEST_LIST else []
        return ", ".join([*(_member(item, exact) for item in value[:LONGEST_LIST]), *more]) or "none"
    return str(value)


def number(value: float, digits: int = 5) -> str:
    """A number with at least this many digits, without exponent up to 1e12."""
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e15 else f"{value:.{digits}g}"


def _member(value: Any, exact: bool) -> str:
    text = written(value, exact=exact)
    return f"({text})" if isinstance(value, (list, tuple, Mapping)) else text


def is_records(value: Any) -> bool:
    """Whether a value is a list of mappings."""
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, Mapping) for item in value)


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar value with its key; keys of nested mappings and records joined by dots."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        elif is_records(value):
            naming, names = _record_names(value)
            for name, record in zip(names, value, strict=True):
                rest = {field: item for field, item in record.items() if field != naming}
                yield from leaves(rest, f"{prefix}{key}.{name}.")
        else:
            yield f"{prefix}{key}", value


def _record_names(records: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[str]]:
    """First key of `NAMES` that is unique over all records, with its values; else no key and numbers from 1."""
    for key in NAMES:
        names = [record.get(key) for record in records]
        if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
            return key, [str(name) for name in names]
    return None, [str(number) for number in range(1, len(records) + 1)]


def numbers(values: Mapping[str, Any], limit: int = 3) -> str:
    """First scalar numbers of a mapping in one line."""
    found = [(key, value) for key, value in values.items() if _is_number(value)]
    return ", ".join(f"{key} {written(value)}" for key, value in found[:limit])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
