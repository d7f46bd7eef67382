"""Stage configurations: strict pydantic models, read from YAML and `key=value`, with errors that name the key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from longcat.pipeline.errors import ConfigError, UsageError
from longcat.pipeline.yaml_text import parse_yaml

MAX_YAML_BYTES = 4 << 20
MAX_SHOWN = 80


class StageConfig(BaseModel):
    """Base of every stage's configuration: unknown keys are refused and values never change after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def resolved(self) -> Self:
        """The configuration with what depends on the machine, such as `auto`, replaced by what it means here.

        The artifact's id is worked out from it. It imports nothing heavy.
        """
        return self

    def with_references(self, references: Mapping[str, Sequence[str]]) -> Self:
        """The configuration once its inputs are known as they were typed, by role.

        The same, unless a stage shows its inputs under the names that the user has for them.
        """
        return self


C = TypeVar("C", bound=StageConfig)

# The mark of a field that says how a stage runs and not what it makes: `Field(..., json_schema_extra=RUNTIME)`.
# It stays out of the artifact's id, so that a run may go on with other values of it.
RUNTIME: dict[str, JsonValue] = {"identity": False}


def load_yaml(path: Path) -> Any:
    """Read one YAML file of bounded size; see `parse_yaml`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path)) from None
    except IsADirectoryError:
        raise ConfigError("is a folder, a YAML file is needed", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', error)}", where=str(path)) from None
    if len(data) > MAX_YAML_BYTES:
        raise ConfigError(f"larger than {MAX_YAML_BYTES} bytes", where=str(path))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(f"not UTF-8 (byte {error.start})", where=f"{path}:{line}:{column}") from None
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
    path = ".".join(str(part) for part in item["loc"])[:MAX_SHOWN]
    if item["type"] == "extra_forbidden":
        known = _fields_at(kind, item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        advice = f", did you mean {near[0]!r}?" if near else f", known: {', '.join(sorted(known))}"
        return f"unknown key {path!r}{advice}"
    if item["type"] == "missing":
        return f"{path!r} is required"
    if item["type"] in ("tuple_type", "list_type") and not isinstance(item.get("input"), Mapping):
        item = {**item, "msg": "a list is needed"}
    value = repr(item.get("input"))
    value = value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 3] + "..."
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


def runtime_keys(config: BaseModel) -> list[tuple[str | int, ...]]:
    """Where in the JSON values of a configuration the fields marked `RUNTIME` stand."""
    return sorted(_missing(config.model_dump(mode="json"), identity_values(config)), key=str)


def _missing(full: Any, part: Any) -> Iterator[tuple[str | int, ...]]:
    if isinstance(full, dict):
        for key, value in full.items():
            if key not in part:
                yield (key,)
            else:
                yield from ((key, *below) for below in _missing(value, part[key]))
    elif isinstance(full, list):
        for at, (value, item) in enumerate(zip(full, part, strict=True)):
            yield from ((at, *below) for below in _missing(value, item))


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
