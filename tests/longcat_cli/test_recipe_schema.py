"""The JSON schema of recipes, and copies of recipes that refer to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.cli.recipes import SCHEMA_FILE, with_schema
from longcat.pipeline.stage import registry

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def schema(capfd: Capture) -> dict[str, Any]:
    assert run(["recipes", "schema"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def rule(schema: dict[str, Any], stage: str) -> dict[str, Any]:
    """Schema of a step of this stage."""
    rules = schema["$defs"]["Step"]["allOf"]
    (found,) = [item["then"] for item in rules if item["if"]["properties"]["stage"]["const"] == stage]
    return dict(found)


def resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    return dict(schema["$defs"][part["$ref"].removeprefix("#/$defs/")])


def test_every_stage_has_its_configuration_and_inputs(schema: dict[str, Any]) -> None:
    assert schema["required"] == ["name", "steps"]
    assert schema["$defs"]["Step"]["properties"]["stage"]["enum"] == registry.names()
    for name in registry.names():
        stage, then = registry.get(name), rule(schema, name)
        config = resolved(schema, then["properties"]["config"])
        assert set(config["properties"]) == set(stage.config.model_fields)
        assert config["additionalProperties"] is False
        assert set(then["properties"]["inputs"]["properties"]) == {role.name for role in stage.roles}
        assert then["properties"]["inputs"]["additionalProperties"] is False


def test_choices_descriptions_and_required_keys_are_in_the_schema(schema: dict[str, Any]) -> None:
    train = rule(schema, "train")
    config = resolved(schema, train["properties"]["config"])
    assert config["properties"]["dtype"]["enum"] == ["auto", "float32", "bfloat16"]
    assert "matrix products" in config["properties"]["dtype"]["description"]
    assert train["properties"]["inputs"]["required"] == ["tokens"]
    assert train["required"] == ["inputs"]
    assert rule(schema, "import")["required"] == ["config"]
    one, several = rule(schema, "evaluate")["properties"]["inputs"]["properties"]["checkpoints"]["anyOf"]
    assert (one["type"], several["type"], "maxItems" in several) == ("string", "array", False)


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*map(references, part.values())) if part else own
    return set().union(*map(references, part)) if isinstance(part, list) and part else set()


def test_it_refers_to_no_other_file(schema: dict[str, Any]) -> None:
    assert references(schema) <= {f"#/$defs/{name}" for name in schema["$defs"]}


def test_a_copy_refers_editors_to_the_schema(capfd: Capture, tmp_path: Path, schema: dict[str, Any]) -> None:
    copy = tmp_path / "mine.yaml"
    assert run(["recipes", "copy", "smoke", str(copy)]) == 0
    first, rest = copy.read_text().split("\n", 1)
    assert first == f"# yaml-language-server: $schema=./{SCHEMA_FILE}"
    assert rest.startswith("name: smoke")
    assert json.loads((tmp_path / SCHEMA_FILE).read_text()) == schema
    assert run(["recipes", "copy", str(copy), str(tmp_path / "again.yaml")]) == 0
    assert (tmp_path / "again.yaml").read_text() == copy.read_text(), "the line occurs once"
    assert run(["run", str(copy), "--dry-run", "--store", str(tmp_path / "store")]) == 0


def test_a_foreign_file_is_not_overwritten(capfd: Capture, tmp_path: Path) -> None:
    (tmp_path / SCHEMA_FILE).write_text("{}")
    assert run(["recipes", "copy", "smoke", str(tmp_path / "mine.yaml")]) == 3
    assert f"{SCHEMA_FILE}: the file already exists" in capfd.readouterr().err
    assert not (tmp_path / "mine.yaml").exists()


def test_another_first_comment_is_kept() -> None:
    assert with_schema(b"# mine\nname: x\n").splitlines()[1] == b"# mine"
