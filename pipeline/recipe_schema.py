"""The JSON schema of a recipe, for editors: every stage with its configuration and its inputs."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from longcat.pipeline.recipe_file import Recipe
from longcat.pipeline.refs import NAME_PATTERN
from longcat.pipeline.stage import Role, Stage, registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "longcat recipe"


def recipe_schema() -> dict[str, Any]:
    """Build the schema: a step's `stage` determines its `config` and `inputs`."""
    stages = [registry.get(name) for name in registry.names()]
    schemas, shared = models_json_schema([(stage.config, "validation") for stage in stages])
    rules = [_rule(stage, schemas[stage.config, "validation"]) for stage in stages]
    step = {
        "type": "object",
        "required": ["stage"],
        "additionalProperties": False,
        "properties": {
            "stage": {"enum": [stage.name for stage in stages], "description": "Stage to run."},
            "config": {"type": "object", "description": "Configuration; omitted keys have their defaults."},
            "inputs": {"type": "object", "description": "By role: an earlier step, or an artifact in the store."},
        },
        "allOf": rules,
    }
    recipe = Recipe.model_json_schema(mode="validation")
    properties = {key: value for key, value in recipe["properties"].items() if key != "steps"}
    properties["steps"] = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{NAME_PATTERN.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/Step"},
        "description": "Steps in the order in which they run.",
    }
    return {
        "$schema": DIALECT,
        "title": TITLE,
        "description": recipe["description"],
        "type": "object",
        "required": recipe["required"],
        "additionalProperties": False,
        "properties": properties,
        "$defs": {**shared.get("$defs", {}), "Step": step},
    }


def _rule(stage: Stage, config: dict[str, Any]) -> dict[str, Any]:
    needed = [role.name for role in stage.roles if role.required]
    inputs = {
        "type": "object",
        "additionalProperties": False,
        "properties": {role.name: _role(role) for role in stage.roles},
        "required": needed,
    }
    then: dict[str, Any] = {"properties": {"config": config, "inputs": inputs}}
    required = [*(["inputs"] if needed else []), *(["config"] if _has_required(stage) else [])]
    if required:
        then["required"] = required
    named = {"properties": {"stage": {"const": stage.name}}, "required": ["stage"]}
    return {"if": named, "then": then}


def _role(role: Role) -> dict[str, Any]:
    one = {"type": "string", "minLength": 1}
    several: dict[str, Any] = {"type": "array", "items": one, "minItems": 1}
    if not role.several:
        several["maxItems"] = 1
    return {"anyOf": [one, several], "description": f"{' or '.join(role.kinds)}{', one or more' * role.several}"}


def _has_required(stage: Stage) -> bool:
    return any(info.is_required() for info in stage.config.model_fields.values())
