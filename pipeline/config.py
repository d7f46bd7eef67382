"""Stage configurations: strict pydantic models, read from YAML and `key=value`, with errors that name the key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from longcat.pipeline.errors import ConfigError, UsageError
from longcat.pipeline.validation import MISSING, UNKNOWN, Problem, problems_of
from longcat.pipeline.yaml_text import parse_yaml

MAX_YAML_BYTES = 4 << 20
MAX_SHOWN = 80


class StageConfig(BaseModel):
    """Base of every stage's configuration: unknown keys are rejected and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def resolved(self) -> Self:
        """Return the configuration with machine-dependent values, such as `auto`, resolved.

        The artifact's id is computed from the result. Must not import heavy packages.
        """
        return self

    def with_references(self, references: Mapping[str, Sequence[str]]) -> Self:
        """Return the configuration adapted to its inputs as typed by the user, by role.

        Unchanged by default; overridden by stages that show their inputs under the user's names.
        """
        return self


C = TypeVar("C", bound=StageConfig)

# Marks a field that affects how a stage runs but not its result: `Field(..., json_schema_extra=RUNTIME)`.
# Excluded from the artifact's id, so that a run can be resumed with other values.
RUNTIME: dict[str, JsonValue] = {"identity": False}
# Marks a field that older artifacts do not have: it is part of the id only where it differs from its default, which
# does what was done without the field.
ADDED: dict[str, JsonValue] = {"identity": "changed"}


def load_yaml(path: Path, as_text: frozenset[str] = frozenset()) -> Any:
    """Read one YAML file of bounded size; see `parse_yaml`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError("no such file", where=str(path)) from None
    except IsADirectoryError:
        raise ConfigError("is a folder, expected a YAML file", where=str(path)) from None
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
    return parse_yaml(text, str(path), as_text)


def load_mapping(path: Path, as_text: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Parse YAML text that must hold a mapping; empty text gives an empty mapping."""
    value = load_yaml(path, as_text)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"expected a mapping at the top level, found {type(value).__name__}", where=str(path))
    return value


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["a.b=1", "c=[x, y]"]` to `{"a": {"b": 1}, "c": ["x", "y"]}`; values are YAML.

    Raises:
        UsageError: an item has no `=` or an empty key, or a key is given twice.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise UsageError(f"--set expects key=value, found {assignment!r}")
        branch: Any = result
        for part in parts[:-1]:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise UsageError(f"--set {assignment!r}: {part!r} already has a plain value")
        if parts[-1] in branch:
            raise UsageError(f"--set {assignment!r}: {key.strip()!r} is already given", hint="it can be given once")
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
        ConfigError: lists every invalid key with its value and, for an unknown key, the closest known one.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(kind, problem) for problem in problems_of(error)]
        raise ConfigError("; ".join(problems), where=where) from None


def _explain(kind: type[BaseModel], problem: Problem) -> str:
    path = problem.path[:MAX_SHOWN]
    if problem.kind == UNKNOWN:
        known = _fields_at(kind, problem.keys[:-1])
        near = difflib.get_close_matches(str(problem.keys[-1]), known, n=1)
        advice = f", did you mean {near[0]!r}?" if near else f", known: {', '.join(sorted(known))}"
        return f"unknown key {path!r}{advice}"
    if problem.kind == MISSING:
        return f"{path!r} is required"
    needs_list = problem.kind in ("tuple_type", "list_type") and not isinstance(problem.found, Mapping)
    value = repr(problem.found)
    value = value if len(value) <= MAX_SHOWN else value[: MAX_SHOWN - 3] + "..."
    prefix = f"{path!r}: " if path else ""
    return f"{prefix}{'expected a list' if needs_list else problem.message} (found {value})"


def _fields_at(kind: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Field names of the model at `location` inside `kind`."""
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
    """JSON values of a configuration that determine the result: without `RUNTIME` fields and unused `ADDED` ones."""
    values: dict[str, Any] = config.model_dump(mode="json")
    for name, info in type(config).model_fields.items():
        if is_runtime(info) or (_is_added(info) and getattr(config, name) == info.default):
            del values[name]
        else:
            values[name] = _without_runtime(getattr(config, name), values[name])
    return values


def is_runtime(info: FieldInfo) -> bool:
    """Whether a field is marked `RUNTIME`."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("identity") is False


def _is_added(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("identity") == "changed"


def runtime_keys(config: BaseModel) -> list[tuple[str | int, ...]]:
    """Paths of the fields marked `RUNTIME` in the JSON values of a configuration."""
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
    """`dumped`, the JSON form of `value`, without the marked fields of the models in it."""
    if isinstance(value, BaseModel):
        return identity_values(value)
    if isinstance(value, Mapping):
        # JSON keys are always strings; their order is unchanged.
        return {key: _without_runtime(item, dumped[key]) for key, item in zip(dumped, value.values(), strict=True)}
    if isinstance(value, (list, tuple)):
        return [_without_runtime(item, part) for item, part in zip(value, dumped, strict=True)]
    return dumped
