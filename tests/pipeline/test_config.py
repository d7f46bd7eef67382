"""Parsing of YAML and `key=value` settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from longcat.pipeline.config import RUNTIME, StageConfig, identity_values, load_mapping, merge, parse_assignments
from longcat.pipeline.errors import ConfigError, UsageError
from longcat.pipeline.stage import registry


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


class _Watch(StageConfig):
    port: int = Field(0, description="port")


class _Part(StageConfig):
    size: int = Field(1, description="size")
    threads: int = Field(1, description="threads", json_schema_extra=RUNTIME)


class _Marked(StageConfig):
    steps: int = Field(1, description="steps")
    processes: int = Field(1, description="processes", json_schema_extra=RUNTIME)
    watch: _Watch = Field(_Watch(), description="all of it", json_schema_extra=RUNTIME)
    parts: tuple[_Part, ...] = Field((_Part(),), description="in a list")
    named: dict[str, _Part] = Field({"a": _Part()}, description="in a mapping")


def test_runtime_fields_are_not_part_of_the_identity() -> None:
    given = {
        "processes": 8,
        "watch": {"port": 3},
        "parts": [{"size": 2, "threads": 4}],
        "named": {"b": {"size": 5, "threads": 9}},
    }
    assert identity_values(_Marked(**given)) == {"steps": 1, "parts": [{"size": 2}], "named": {"b": {"size": 5}}}


def test_without_a_mark_the_identity_is_the_whole_configuration() -> None:
    config = registry.get("data.filter").config()
    assert identity_values(config) == config.model_dump(mode="json")


def test_the_body_of_a_distributed_stage_is_found_by_its_name() -> None:
    from longcat.stages.train.run import train_checkpoint

    assert registry.get("train").load_body() is train_checkpoint
    with pytest.raises(UsageError, match=r"data.filter runs in one process"):
        registry.get("data.filter").load_body()
