"""Recipe files: parsing with line numbers, and `--set` overrides."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from longcat.pipeline.config import load_mapping, merge
from longcat.pipeline.errors import ConfigError, UsageError
from longcat.pipeline.refs import NAME_PATTERN
from longcat.pipeline.validation import MISSING, UNKNOWN, problems_of

MOST_SHOWN = 80  # characters of a value
MOST_NAMES = 15
KINDS_OF_VALUES = {"dict_type": "a mapping", "model_type": "a mapping", "list_type": "a list", "tuple_type": "a list"}


@dataclass(frozen=True)
class Places:
    """Line numbers of a recipe's keys. `shown` is the file name in errors."""

    path: Path
    shown: str

    @cached_property
    def _root(self) -> yaml.Node | None:
        # Only computed for errors, from a file that was read before.
        try:
            return yaml.compose(self.path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
        except (OSError, ValueError, yaml.YAMLError):
            return None

    def line(self, keys: Iterable[Any]) -> int | None:
        """1-based line of the deepest of the nested `keys` that is in the file."""
        node, found = self._root, None
        for key in keys:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == str(key)), None)
                if pair is None:
                    break
                found, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                found = node.start_mark.line + 1
            else:
                break
        return found

    def where(self, *keys: Any) -> str:
        """`mine.yaml:12` for the line of nested keys."""
        line = self.line(keys)
        return self.shown if line is None else f"{self.shown}:{line}"


class Step(BaseModel):
    """One step of a recipe: a stage, its configuration, and its inputs by role.

    An input is the name of an earlier step or a reference to an artifact in the store.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stage: str
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, list[str]] = Field(default_factory=dict)

    @field_validator("inputs", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {role: [given] if isinstance(given, str) else given for role, given in value.items()}


class Recipe(BaseModel):
    """A chain of steps.

    Each step's artifact is published as `<prefix><step>`; `seed` goes to every step that has one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    description: str = ""
    prefix: str = ""
    seed: int = 0
    steps: dict[str, Step]
    _places: Places | None = PrivateAttr(None)
    _settings: dict[str, Any] = PrivateAttr(default_factory=dict)

    def where(self, *keys: Any, called: str | None = None) -> str:
        """Location of nested keys: file and line, or the `--set` that gave them, then their path or `called`."""
        path = called or ".".join(str(key) for key in keys)
        settings: Any = self._settings
        for key in keys[1:2] + keys[3:]:  # steps.STEP.config.KEY is --set STEP.KEY
            settings = settings.get(key) if isinstance(settings, Mapping) else None
        if len(keys) > 3 and keys[0] == "steps" and settings is not None:
            shown = f"--set {keys[1]}.{'.'.join(str(key) for key in keys[3:])}"
            return f"{self.file}: {shown}: {path}"
        place = self._places.where(*keys) if self._places else "recipe"
        return f"{place}: {path}" if path else place

    @property
    def file(self) -> str:
        """Name of the recipe file in errors."""
        return self._places.shown if self._places else f"recipe {self.name}"


def load_recipe(path: Path, shown: str | None = None) -> Recipe:
    """Read a recipe; errors call the file `shown`, or else by its path.

    Raises:
        ConfigError: it is not YAML, a key is unknown, a step has a bad name or no stage; names file, line and key.
    """
    places = Places(path, shown or str(path))
    try:
        recipe = Recipe.model_validate(load_mapping(path, as_text=frozenset({"inputs"})))
    except ValidationError as error:
        raise _explained(error, places) from None
    recipe._places = places
    if not recipe.steps:
        raise ConfigError("the recipe has no steps", where=recipe.where("steps"))
    for step in recipe.steps:
        if not NAME_PATTERN.fullmatch(step):
            raise ConfigError(
                f"invalid step name {step!r}: use letters, digits, dashes, underscores",
                where=recipe.where("steps", step, called="steps"),
            )
    return recipe


def _explained(error: ValidationError, places: Places) -> ConfigError:
    """First validation error; unknown keys before missing ones, since they may be misspelt."""
    problem = min(problems_of(error), key=lambda problem: problem.kind != UNKNOWN)
    keys, path = problem.keys, problem.path
    where = places.where(*keys)
    if problem.kind == UNKNOWN:
        known = Step.model_fields if keys[0] == "steps" and len(keys) > 1 else Recipe.model_fields
        return ConfigError(f"unknown key {path!r}", where=where, hint=nearest(str(keys[-1]), known, "keys"))
    if problem.kind == MISSING:
        return ConfigError(f"{path!r} is required", where=where)
    wanted = KINDS_OF_VALUES.get(problem.kind, problem.message.removeprefix("input should be "))
    found = {dict: "a mapping", list: "a list", type(None): "nothing"}.get(
        type(problem.found), repr(problem.found)[:MOST_SHOWN]
    )
    return ConfigError(f"{path!r}: expected {wanted}, found {found}", where=where)


def nearest(given: str, known: Iterable[str], what: str) -> str:
    """Hint for an unknown name: the closest known one, or all of them."""
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"{what}: {', '.join(names[:MOST_NAMES]) or 'none'}{more}"


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with `--set` values: `{"step": {"key": value}}`, or `{"seed": 1}` for the recipe itself.

    Raises:
        UsageError: a step is not in the recipe; suggests the nearest.
    """
    steps = dict(recipe.steps)
    changes: dict[str, Any] = {}
    for key, value in settings.items():
        if key in steps and isinstance(value, dict):
            steps[key] = steps[key].model_copy(update={"config": merge(steps[key].config, value)})
        elif key in steps:
            raise UsageError(f"--set {key}: the key is missing", where=recipe.file, hint=f"--set {key}.KEY=VALUE")
        elif key == "seed" and isinstance(value, int):
            changes["seed"] = value
        elif key == "seed":
            raise UsageError(f"--set seed: expected a whole number, found {value!r}", where=recipe.file)
        else:
            hint = nearest(key, steps, "steps")
            raise UsageError(f"--set {key}: the recipe has no such step", where=recipe.file, hint=hint)
    changed = recipe.model_copy(update={"steps": steps, **changes})
    changed._settings = merge(recipe._settings, settings)
    return changed
