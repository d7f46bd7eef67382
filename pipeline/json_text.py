"""Strict JSON parser: extensions that Python's parser accepts are rejected, always with a ValueError."""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_DIGITS = 400
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(data: bytes, *, file_names: bool = False) -> Any:
    """Parse JSON text: UTF-8, no NaN or infinity, no duplicate keys, bounded nesting and digits.

    Lone surrogates are rejected unless `file_names`: they encode names of files that are not UTF-8.

    Raises:
        ValueError: the text is invalid; the message says why, in one line.
    """
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_mapping,
            parse_constant=_refuse_constant,
            parse_int=_whole_number,
            parse_float=_number,
        )
        if not file_names and _SURROGATE.search(data):
            # Pairs were decoded to characters; a lone surrogate has no UTF-8 form and would fail on writing.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise ValueError("a string with a lone surrogate") from None
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"duplicate key {twice[:80]!r}")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value
