"""Values of Arrow columns as JSON values: text, numbers, truth values, lists and objects."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_BEYOND = re.compile(r"<value out of range: (-?\d+)>")


class Unreadable:
    """An unreadable value, and the reason."""

    def __init__(self, detail: str) -> None:
        self.detail = detail


def json_values(column: pa.Array) -> list[Any]:
    """Values of a column: strings as text, or as bytes where they are not UTF-8, and bytes as bytes.

    Dates, times, durations and decimals become text; in lists and objects, so do strings and bytes that are not UTF-8,
    as hexadecimal. A value that cannot be read is an `Unreadable`.
    """
    import pyarrow as pa

    types = pa.types
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_nested(kind):
        return [_readable(scalar) for scalar in column]
    if types.is_null(kind):
        return [None] * len(column)
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return list(column.to_pylist())
    if _is_string(kind) or _is_binary(kind):
        return _texts(column)
    return _as_text(column)


def text_charset(kind: pa.DataType) -> str | None:
    """Encoding of a type of texts: `utf-8`, empty for bytes; None for other types."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return "utf-8" if _is_string(kind) else "" if _is_binary(kind) else None


def text_of_bytes(value: bytes) -> str:
    """UTF-8 if valid, else hexadecimal."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _is_string(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    checks: tuple[Callable[[pa.DataType], bool], ...] = (types.is_binary, types.is_large_binary, types.is_binary_view)
    return any(check(kind) for check in (*checks, types.is_fixed_size_binary))


def _texts(column: pa.Array) -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_text(scalar) for scalar in column]


def _text(scalar: Any) -> Any:
    """A string, or its bytes if they are not UTF-8."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()


def _readable(scalar: Any) -> Any:
    import pyarrow as pa

    try:
        return _nested(scalar)
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        return Unreadable(str(error).splitlines()[0][:200])


def _nested(scalar: Any) -> Any:
    """JSON value of a scalar of any type."""
    import pyarrow as pa

    types = pa.types
    if isinstance(scalar, pa.ExtensionScalar):
        scalar = scalar.value
    if scalar is None or not scalar.is_valid:
        return None
    kind = scalar.type
    if types.is_dictionary(kind):
        return _nested(scalar.value)
    if types.is_struct(kind):
        return {name: _nested(scalar[index]) for index, name in enumerate(field.name for field in kind)}
    if types.is_map(kind):
        pairs = [(_nested(entry[0]), _nested(entry[1])) for entry in scalar.values]
        return dict(pairs) if all(isinstance(name, str) for name, _ in pairs) else [list(pair) for pair in pairs]
    if types.is_nested(kind):
        return _items(scalar)
    value = json_values(pa.array([scalar], kind))[0]
    return text_of_bytes(value) if isinstance(value, bytes) else value


def _items(scalar: Any) -> Any:
    """Items of a list, fast where they are numbers."""
    import pyarrow as pa

    values = getattr(scalar, "values", None)
    if values is None:
        return str(scalar.as_py())
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return values.to_pylist()
    return [_nested(item) for item in values]


def _as_text(column: pa.Array) -> list[str | None]:
    """Dates, times, durations and decimals as text; a count of units if out of the calendar's range."""
    import pyarrow as pa

    try:
        return [_plain(text) for text in column.cast(pa.string()).to_pylist()]
    except (pa.ArrowException, ValueError):
        pass
    if pa.types.is_temporal(column.type) and column.type.bit_width in (32, 64):
        whole = pa.int32() if column.type.bit_width == 32 else pa.int64()
        return [None if count is None else str(count) for count in column.view(whole).to_pylist()]
    return [None if value is None else str(value) for value in column.to_pylist()]


def _plain(text: str | None) -> str | None:
    found = _BEYOND.fullmatch(text) if text else None
    return found[1] if found else text
