"""Stage configurations: strict pydantic models, read from YAML and `key=value`, with errors that name the key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from longcat.pipeline.errors import ConfigError, UsageError

MAX_YAML_BYTES = 4 << 20


class StageConfig(BaseModel):
    """Base of every stage's configuration: unknown keys are refused and values never change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


C = TypeVar("C", bound=StageConfig)

# The mark of a field that says how a stage runs and not what it makes: `Field(..., json_schema_extra=RUNTIME)`.
# It stays out of the artifact's id, so that a run may go on with other values of it.
RUNTIME: dict[str, JsonValue] = {"identity": False}


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as PyYAML reads it, except that a repeated key is an error and `1e-3` is a number."""


def _construct_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, (str, int)) and key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


# PyYAML reads 1e-3 (no dot) as text; users mean the number.
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML without executing tags.

    Raises:
        ConfigError: the text is not YAML, or a key stands twice; names line and column.
    """
    try:
        loader = _UniqueKeyLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"not valid YAML: {problem}", where=place) from None


def load_yaml(path: Path) -> Any:
    """Read one YAML file of bounded size; see `parse_yaml`."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(f"larger than {MAX_YAML_BYTES} bytes", where=str(path))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path)) from None
    except IsADirectoryError:
        raise ConfigError("is a folder, a YAML file is needed", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 (byte {error.start})", where=str(path)) from None
    return parse_yaml(text, str(path))


def load_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that must hold a mapping; an empty file is an empty mapping."""
    value = load_yaml(path)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"a mapping is needed at the top, found {type(value).__name__}", where=str(path))
    return value


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "c=[x, y]"]` to `{"a": {"b": 1}, "c": ["x", "y"]}`; values are YAML.

    Raises:
        UsageError: an item has no `=` or an empty key.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise UsageError(f"--set needs key=value, found {assignment!r}")
        branch: Any = result
        for part in parts[:-1]:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise UsageError(f"--set {assignment!r}: {part!r} already has a plain value")
        branch[parts[-1]] = parse_yaml(text, f"--set {key}")
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of mappings; `over` wins, lists and scalars are replaced whole."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            value = merge(known, value)  # noqa: PLW2901
        result[key] = value
    return result


def build_config(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """Validate `values` as `kind`.

    Raises:
        ConfigError: names every offending key, its value and, for an unknown key, the nearest known one.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(kind, item) for item in error.errors(include_url=False)]
        raise ConfigError("; ".join(problems), where=where) from None


def _explain(kind: type[BaseModel], item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(kind, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        advice = f", did you mean {near[0]!r}?" if near else f", known: {', '.join(sorted(known))}"
        return f"unknown key {path!r}{advice}"
    if item["type"] == "missing":
        return f"{path!r} is required"
    value = repr(item.get("input"))
    value = value if len(value) <= 80 else value[:77] + "..."
    prefix = f"{path!r}: " if path else ""
    return f"{prefix}{item['msg'][0].lower()}{item['msg'][1:]} (found {value})"


def _fields_at(kind: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields of the model that stands at `location` inside `kind`."""
    current: type[BaseModel] | None = kind
    for part in location:
        if current is None or part not in current.model_fields:
            continue
        current = _model_in(current.model_fields[part].annotation)
    return list(current.model_fields) if current is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_model_in, get_args(annotation)) if found), None)


def identity_values(config: BaseModel) -> dict[str, Any]:
    """The JSON values of a configuration that determine what is made: all but the fields marked `RUNTIME`."""
    values: dict[str, Any] = config.model_dump(mode="json")
    for name, info in type(config).model_fields.items():
        if is_runtime(info):
            del values[name]
        else:
            values[name] = _without_runtime(getattr(config, name), values[name])
    return values


def is_runtime(info: FieldInfo) -> bool:
    """Whether a field is marked `RUNTIME`."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("identity") is False


def _without_runtime(value: Any, dumped: Any) -> Any:
    """`dumped`, the JSON form of `value`, less the marked fields of the models in it."""
    if isinstance(value, BaseModel):
        return identity_values(value)
    if isinstance(value, Mapping):
        # JSON keys are text whatever the keys were; their order is the same.
        return {key: _without_runtime(item, dumped[key]) for key, item in zip(dumped, value.values(), strict=True)}
    if isinstance(value, (list, tuple)):
        return [_without_runtime(item, part) for item, part in zip(value, dumped, strict=True)]
    return dumped
