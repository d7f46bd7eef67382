"""The options of a stage's command: one for each input role, one for each plain field of its configuration."""

from __future__ import annotations

import inspect
import types
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from longcat.cli import completion

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from longcat.cli.stage_command import Spec
    from longcat.pipeline.stage import Stage

# A value that stands without a flag comes in under this prefix, beside the one with a flag.
POSITIONAL = "positional__"


def keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """A parameter as Typer reads them."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def role_parameters(stage: Stage, spec: Spec) -> list[inspect.Parameter]:
    """`input__ROLE`: a reference, or several."""
    parameters = []
    for role in stage.roles:
        kinds = " or ".join(role.kinds)
        text = f"The {kinds} artifact to read: a name, name@version, an id prefix or a folder."
        text += " May be given several times." if role.several else ""
        option = typer.Option(
            _flag(role.name, spec),
            help=text,
            metavar="REF",
            rich_help_panel="Inputs",
            show_default=False,
            autocompletion=completion.references(*role.kinds),
        )
        kind = list[str] if role.several else str
        parameters.append(keyword(f"input__{role.name}", Annotated[kind | None, option]))
    return parameters


def field_parameters(stage: Stage, spec: Spec) -> list[inspect.Parameter]:
    """`config__FIELD`, and `positional__FIELD` for what stands without a flag."""
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
            help=_describe(info),
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
    """The configuration that the options and arguments give: what was given, lists of both ways together."""
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
    return {"preset": completion.presets, "grid": completion.settings_of_stage("train")}.get(field)


def _flag(name: str, spec: Spec) -> str:
    return spec.options.get(name, "--" + name.replace("_", "-"))


def _flags(name: str, kind: Any, spec: Spec) -> list[str]:
    flag = _flag(name, spec)
    return [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]


def _describe(info: FieldInfo) -> str:
    text = (info.description or "").replace("[", "\\[")
    if info.is_required():
        return f"{text} [dim](required)[/dim]"
    shown = _shown(info.get_default(call_default_factory=True))
    return f"{text} [dim](default: {shown})[/dim]" if len(shown) <= 60 else text


def _shown(default: Any) -> str:
    """A default as it would be written after `--set key=`: `null` is no value, `none` the word."""
    if default is None:
        return "null"
    if isinstance(default, (tuple, list)):
        return ", ".join(map(str, default)) or "empty"
    if isinstance(default, bool):
        return "yes" if default else "no"
    return str(default)


def choices(annotation: Any) -> tuple[str, ...] | None:
    """The words of a field that takes these and nothing else (or null), None for any other field."""
    origin = get_origin(annotation)
    if origin is Literal:
        values = get_args(annotation)
        return values if all(isinstance(value, str) for value in values) else None
    if origin is Annotated:
        return choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        members = [choices(member) for member in get_args(annotation) if member is not type(None)]
        return tuple(word for member in members for word in member or ()) if all(members) else None
    return None


def option_type(annotation: Any) -> Any:
    """The type of the option for a configuration field; None for fields that only a file or --set can give."""
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
        if words:  # Typer takes lists of an Enum and none of a Literal
            members = [StrEnum("Choice", {f"word_{number}": word for number, word in enumerate(words)})]
        if words or members == [str]:
            return list[members[0]]  # type: ignore[valid-type]
    return None


def _widest(members: list[Any]) -> Any:
    kinds = {str if choices(kind) else kind for kind in map(option_type, members)}
    if kinds <= {int, float}:
        return float
    return str if None not in kinds and not any(get_origin(kind) for kind in kinds) else None
