"""Options of a stage's command: one per input role, one per plain field of its configuration."""

from __future__ import annotations

import inspect
import types
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from longcat.cli import completion
from longcat.cli.choices import choices

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from longcat.cli.stage_spec import Spec
    from longcat.pipeline.stage import Stage

# Parameter name prefix of a positional value, in addition to the one with a flag.
POSITIONAL = "positional__"


def keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """Parameter in the form Typer reads."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def role_parameters(stage: Stage, spec: Spec) -> list[inspect.Parameter]:
    """Parameter `input__ROLE`: one or several references; an argument for the positional role."""
    parameters = []
    for role in stage.roles:
        kinds = " or ".join(role.kinds)
        text = spec.roles.get(role.name, f"The {kinds} artifact to read")
        text += ": a name, name@version, an id prefix or a folder."
        text += " Repeatable." if role.several else ""
        more: dict[str, Any] = {
            "help": text,
            "metavar": "REF",
            "show_default": False,
            "autocompletion": completion.references(*role.kinds),
        }
        if role.name == spec.positional:
            option = typer.Argument(**more)
        else:
            option = typer.Option(flag_of(role.name, spec), rich_help_panel="Inputs", **more)
        kind = list[str] if role.several else str
        parameters.append(keyword(f"input__{role.name}", Annotated[kind | None, option]))
    return parameters


def field_parameters(stage: Stage, spec: Spec) -> list[inspect.Parameter]:
    """`config__FIELD`, and `positional__FIELD` for positional values."""
    taken = {role.name for role in stage.roles}
    parameters = []
    for name, info in stage.config.model_fields.items():
        kind = option_type(info.annotation)
        if kind is None or name in taken:
            continue
        if name == spec.positional:
            parameters.append(_argument(name, info, kind))
            if get_origin(kind) is not list:
                continue
        option = typer.Option(
            *_flags(name, kind, spec),
            help=_describe(info, kind),
            rich_help_panel="Configuration",
            show_default=False,
            autocompletion=_completer(name),
        )
        parameters.append(keyword(f"config__{name}", Annotated[kind | None, option]))
    return parameters


def _argument(name: str, info: FieldInfo, kind: Any) -> inspect.Parameter:
    several = get_origin(kind) is list
    metavar = f"[{name.upper()}]..." if several else name.upper()
    argument = typer.Argument(metavar=metavar, help=info.description, show_default=False)
    annotation = Annotated[kind | None, argument] if several else Annotated[kind, argument]
    return keyword(POSITIONAL + name, annotation, None if several else inspect.Parameter.empty)


def given_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Configuration values from options and arguments; lists given both ways are concatenated."""
    given: dict[str, Any] = {}
    for prefix in (POSITIONAL, "config__"):
        for name, value in values.items():
            if not name.startswith(prefix) or value is None or value == []:
                continue
            field = name.removeprefix(prefix)
            several = isinstance(value, (list, tuple))
            given[field] = [*given.get(field, ()), *map(str, value)] if several else value
    return given


def _completer(field: str) -> Any:
    return {
        "preset": completion.presets,
        "length_schedule": completion.length_schedules,
        "grid": completion.settings_of_stage("train"),
    }.get(field)


def flag_of(name: str, spec: Spec) -> str:
    """Option of a role or a configuration field."""
    return spec.options.get(name, "--" + name.replace("_", "-"))


def _flags(name: str, kind: Any, spec: Spec) -> list[str]:
    flag = flag_of(name, spec)
    return [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]


def _describe(info: FieldInfo, kind: Any) -> str:
    text = (info.description or "").replace("[", "\\[")
    text += " Repeatable." if get_origin(kind) is list else ""
    if info.is_required():
        return f"{text} [dim](required)[/dim]"
    shown = _shown(info.get_default(call_default_factory=True))
    return f"{text} [dim](default: {shown})[/dim]" if len(shown) <= 60 else text


def _shown(default: Any) -> str:
    """Format a default as written after `--set key=`: `null` is no value, `none` the word."""
    if default is None:
        return "null"
    if isinstance(default, (tuple, list)):
        return ", ".join(map(str, default)) or "empty"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)


def option_type(annotation: Any) -> Any:
    """Option type for a configuration field; None for fields that only a file or --set can set."""
    if words := choices(annotation):
        return Literal[words]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return option_type(members[0]) if len(members) == 1 else _widest(members)
    if origin is Annotated:
        return option_type(get_args(annotation)[0])
    if annotation in (bool, int, float, str):
        return annotation
    if annotation is Path:
        return str
    if origin in (list, tuple):
        members = [option_type(member) for member in get_args(annotation) if member is not ...]
        words = choices(members[0]) if len(members) == 1 else None
        if words:  # Typer supports lists of an Enum but not of a Literal
            members = [StrEnum("Choice", {f"word_{number}": word for number, word in enumerate(words)})]
        if words or members == [str]:
            return list[members[0]]  # type: ignore[valid-type]
    return None


def _widest(members: list[Any]) -> Any:
    kinds = {str if choices(kind) else kind for kind in map(option_type, members)}
    if kinds <= {int, float}:
        return float
    return str if None not in kinds and not any(get_origin(kind) for kind in kinds) else None
