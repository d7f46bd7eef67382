"""Records from named values: the fields of a JSON line, the columns of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.records import Problem, Record

# JSON can be parsed deeper than it can be written.
MAX_METADATA_LEVELS = 200


def to_record(
    values: Mapping[str, Any],
    config: ExtractConfig,
    place: dict[str, int],
    *,
    charset: str | None = None,
    encoding: str | None = None,
    replaced: int = 0,
) -> Record | Problem:
    """Record from named JSON values; a problem if there is no text.

    The text field may hold undecoded bytes, with their stated `charset`. Fields other than text, id, URL and language
    become metadata, under those of the record's own `metadata`. `place` has one position, which is the record's key.
    `encoding` and `replaced` describe how the values were decoded.
    """
    key = str(next(iter(place.values())))
    rest = dict(values)
    content, url = rest.pop(config.text_field, None), _text(rest, config.url_field)
    language, original = _text(rest, "language"), _id(rest, config.id_field)
    if not isinstance(content, (str, bytes)):
        return Problem("missing_text", f"{config.text_field!r} is not text", place, key, url)
    metadata = _metadata(rest, config.metadata_fields)
    if not _fits(metadata):
        return Problem("bad_metadata", f"nested over {MAX_METADATA_LEVELS} levels deep", place, key, url)
    if encoding is not None:
        metadata["encoding"] = encoding
    if original is not None:
        metadata["original_id"] = original
    return Record(
        key,
        config.field_kind,
        content,
        place,
        url=url,
        charset=charset,
        language=language,
        metadata=metadata,
        replaced=replaced,
    )


def is_kept(field: str, patterns: Iterable[str]) -> bool:
    """Whether a field matches one of the patterns of `metadata_fields`."""
    return any(fnmatchcase(field, pattern) for pattern in patterns)


def _text(values: dict[str, Any], field: str) -> str | None:
    """Remove and return a text; another value than a text or null is left for the metadata."""
    value = values.get(field)
    if value is None or isinstance(value, str):
        values.pop(field, None)
    return value if isinstance(value, str) else None


def _id(values: dict[str, Any], field: str) -> str | None:
    """Remove and return an id as text; an object or a list is left for the metadata."""
    value = values.get(field)
    if isinstance(value, (dict, list)):
        return None
    values.pop(field, None)
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _metadata(rest: dict[str, Any], patterns: tuple[str, ...]) -> dict[str, Any]:
    own = rest.pop("metadata", None)
    if own is not None and not isinstance(own, dict):
        rest["metadata"], own = own, None
    kept = rest if patterns == ("*",) else {name: rest[name] for name in rest if is_kept(name, patterns)}
    return {**kept, **(own or {})}


def _fits(metadata: Any) -> bool:
    """Whether the nesting depth can be written."""
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
