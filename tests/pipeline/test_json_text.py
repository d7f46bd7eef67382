"""JSON from files: every invalid text is a ValueError of one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.pipeline.files import read_json
from longcat.pipeline.json_text import parse_json


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "a number of 5000 digits"),
        (b"-" + b"9" * 5000, "a number of 5001 digits"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1e999", "too large"),
        (b'{"a": {"b": 1, "b": 2}}', "duplicate key 'b'"),
        (b'"\xff"', "not UTF-8"),
        (b'"\\ud800"', "lone surrogate"),
        (b"", "Expecting value"),
        (b"\0", "Expecting value"),
        (b"{} x", "Extra data"),
    ],
)
def test_invalid_json(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path)
    assert len(str(caught.value).splitlines()) == 1


def test_valid_json() -> None:
    data = b'\xef\xbb\xbf{"a": [1, -2.5, 1e3, true, null, "\\ud83d\\ude00"], "b": {}}'
    assert parse_json(data) == {"a": [1, -2.5, 1000.0, True, None, "\U0001f600"], "b": {}}


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match="not a regular file"):
            read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")


@given(st.binary())
def test_nothing_but_a_value_error_is_raised(data: bytes) -> None:
    try:
        parse_json(data)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
