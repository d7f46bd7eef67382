"""Allowed values of a configuration field, read from its annotation."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin


def choices(annotation: Any) -> tuple[str, ...] | None:
    """Values of a field that accepts only a fixed set of words (or null); None for any other field."""
    origin = get_origin(annotation)
    if origin is Literal:
        values = get_args(annotation)
        return values if all(isinstance(value, str) for value in values) else None
    if origin is Annotated:
        return choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [choices(member) for member in get_args(annotation) if member is not type(None)]
        return tuple(word for member in members for word in member or ()) if all(members) else None
    return None
