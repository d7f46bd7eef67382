"""Shell completion of values: artifacts, recipes, presets, configuration keys.

Completion never writes or prints errors and is bounded in time; an unreadable store gives no candidates.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from pydantic import BaseModel

Item = tuple[str, str]
Completer = Callable[[typer.Context, str], list[Item]]

# A store on a slow disk is read only partly; the candidates found so far are offered.
SECONDS = 0.5
MOST = 500
START_OF_ID = re.compile(r"[0-9a-f]{1,16}")


def _quietly(find: Callable[[typer.Context, str], Iterable[Item]]) -> Completer:
    # Typer reads the names and types of these parameters, not those of `find`.
    def complete(ctx: typer.Context, incomplete: str) -> list[Item]:
        found: list[Item] = []
        deadline = time.monotonic() + SECONDS
        try:
            for item in find(ctx, incomplete):
                if item[0].startswith(incomplete):
                    found.append(item)
                if len(found) >= MOST or time.monotonic() > deadline:
                    break
        except Exception:  # completion never shows an error
            return found
        return found

    return complete


def references(*kinds: str) -> Completer:
    """Names, `name@version` and ids of the artifacts of these kinds; of all kinds if none are given."""

    @_quietly
    def complete(ctx: typer.Context, incomplete: str) -> Iterator[Item]:
        yield from _references(settings_of(ctx).store, kinds, incomplete)

    return complete


def _references(store: Path, kinds: tuple[str, ...], incomplete: str) -> Iterator[Item]:
    from longcat.pipeline.artifact import KINDS
    from longcat.pipeline.errors import LongcatError
    from longcat.pipeline.refs import Refs

    refs = Refs(store / "refs")
    start, at, _ = incomplete.partition("@")
    numbered: list[list[Item]] = []
    for name in refs.names():
        if name != start if at else not name.startswith(start):
            continue
        try:
            versions = refs.versions(name)
        except LongcatError:
            continue
        fitting = [(number, v) for number, v in enumerate(versions, start=1) if not kinds or v.kind in kinds]
        if not fitting:
            continue
        if fitting[-1][1] is versions[-1]:
            yield name, f"{versions[-1].kind} {versions[-1].id}"
        numbered.append([(f"{name}@{number}", f"{version.kind} {version.id}") for number, version in fitting])
    if len(numbered) == 1:
        yield from numbered[0]
    if START_OF_ID.fullmatch(incomplete):
        for kind in kinds or KINDS:
            yield from ((folder.name, kind) for folder in sorted((store / kind).glob(f"{incomplete}*")))


@_quietly
def recipes(_: typer.Context, incomplete: str) -> Iterator[Item]:
    """Bundled recipes, and YAML files."""
    from longcat.cli.recipe_files import shipped_folder

    yield from ((path.stem, "bundled with longcat") for path in sorted(shipped_folder().glob("*.yaml")))
    folder = incomplete.rpartition("/")[0]
    for path in sorted(Path(folder or ".").glob("*.yaml")):
        yield f"{folder}/{path.name}" if folder else path.name, "file"


@_quietly
def presets(_: typer.Context, incomplete: str) -> Iterator[Item]:
    """Model presets."""
    from longcat.model.presets import preset_names

    yield from ((name, "preset") for name in preset_names())


@_quietly
def length_schedules(_: typer.Context, incomplete: str) -> Iterator[Item]:
    """Schedules of `extend`."""
    from longcat.stages.extend.schedules import schedule_names

    yield from ((name, "schedule") for name in schedule_names())


@_quietly
def models(ctx: typer.Context, incomplete: str) -> Iterator[Item]:
    """Model presets and checkpoints."""
    yield from presets(ctx, incomplete)
    yield from _references(settings_of(ctx).store, ("checkpoint",), incomplete)


@_quietly
def kinds_of_artifacts(_: typer.Context, incomplete: str) -> Iterator[Item]:
    """The kinds of artifacts."""
    from longcat.pipeline.artifact import KINDS

    yield from ((kind, "") for kind in KINDS)


def words(*offered: str) -> Completer:
    """Completer for a fixed set of words."""
    return _quietly(lambda _, __: ((word, "") for word in offered))


def settings_of_stage(stage: str) -> Completer:
    """`key=` for every configuration key of a stage, and `key=value` for keys with few values."""

    @_quietly
    def complete(_: typer.Context, incomplete: str) -> Iterator[Item]:
        yield from _assignments(stage, incomplete)

    return complete


def _assignments(stage: str, incomplete: str, prefix: str = "") -> Iterator[Item]:
    import longcat.stages  # noqa: F401  declares the stages
    from longcat.cli.choices import choices
    from longcat.pipeline.stage import registry

    key, is_assigned, _ = incomplete.partition("=")
    for name, info in _keys(registry.get(stage).config, prefix):
        if is_assigned and name == key:
            values = ("true", "false") if info.annotation is bool else choices(info.annotation) or ()
            yield from ((f"{name}={value}", "") for value in values)
        elif not is_assigned:
            yield f"{name}=", info.description or ""


def _keys(config: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    """Every key of a configuration with its field, nested ones with dots; `model` has those of an architecture."""
    from longcat.model.config import ModelConfig

    for name, info in config.model_fields.items():
        nested = ModelConfig if name == "model" and info.annotation != ModelConfig else info.annotation
        if isinstance(nested, type) and hasattr(nested, "model_fields"):
            yield from _keys(nested, f"{prefix}{name}.")
        else:
            yield prefix + name, info


@_quietly
def filter_rules(ctx: typer.Context, incomplete: str) -> Iterator[Item]:
    """Filter rules enabled in the artifact given on the command line, or in the default configuration."""
    from longcat.stages.data.rules.config import families, rules_on

    config = _filter_config(ctx)
    described = {
        f"{name}.{key}": info.description or ""
        for name, family in families(config)
        for key, info in type(family).model_fields.items()
    }
    yield from ((rule, described[rule]) for rule in rules_on(config))


def _filter_config(ctx: typer.Context) -> Any:
    from longcat.pipeline.errors import LongcatError
    from longcat.pipeline.store import Store
    from longcat.stages.data.rules.config import FilterConfig

    reference = ctx.params.get("reference") or next(iter(ctx.args), None)
    try:
        found = Store(settings_of(ctx).store).resolve(reference).manifest.config if reference else {}
        return FilterConfig.model_validate(found)
    except (LongcatError, OSError, ValueError):
        return FilterConfig()


@_quietly
def steps(ctx: typer.Context, incomplete: str) -> Iterator[Item]:
    """Steps of the recipe given on the command line."""
    yield from ((name, step.stage) for name, step in _recipe(ctx).steps.items())


@_quietly
def settings_of_recipe(ctx: typer.Context, incomplete: str) -> Iterator[Item]:
    """`step.key=` for the recipe on the command line: first its steps, then the keys of the named step."""
    recipe = _recipe(ctx)
    step, dot, _ = incomplete.partition(".")
    if dot and step in recipe.steps:
        yield from _assignments(recipe.steps[step].stage, incomplete, f"{step}.")
    elif not dot:
        yield from ((f"{name}.", found.stage) for name, found in recipe.steps.items())
        yield "seed=", "seed of the recipe"


def _recipe(ctx: typer.Context) -> Any:
    from longcat.cli.recipe_files import find_recipe
    from longcat.pipeline.recipe import load_recipe

    # If the last option still lacks its value, arguments are left unparsed.
    return load_recipe(find_recipe(ctx.params.get("recipe") or ctx.args[0]))
