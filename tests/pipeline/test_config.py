"""YAML and `key=value` to values."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load_mapping, merge, parse_assignments
from pipeline.errors import ConfigError


def test_numbers_written_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rate: 1e-3\nname: '1e-3'\nid: 12ab\n")
    assert load_mapping(path) == {"rate": 0.001, "name": "1e-3", "id": "12ab"}


def test_assignments_nest_and_parse_yaml() -> None:
    assert parse_assignments(["a.b=1", "a.c=[x, 2]", "d=", "e=1e5"]) == {
        "a": {"b": 1, "c": ["x", 2]},
        "d": None,
        "e": 1e5,
    }


def test_merge_is_deep_for_mappings_only() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "l": [1]}, {"a": {"y": 3}, "l": []}) == {"a": {"x": 1, "y": 3}, "l": []}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: [1", "c.yaml:1:6: not valid YAML"),
        (b"\xff", "not UTF-8"),
        (b"!!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        load_mapping(path)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_mapping(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_mapping(tmp_path)
