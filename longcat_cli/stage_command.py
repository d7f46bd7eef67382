"""Stage commands: options made from the stage's configuration and inputs when the command is first asked for."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from longcat.cli.common_options import add_common_options, leading_common_options
from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from longcat.pipeline.stage import Stage


@dataclass(frozen=True)
class Spec:
    """How a stage appears on the command line.

    `positional` names a configuration field given without a flag; `options` renames flags (role or field -> flag).
    `prepare` takes the configuration and the inputs as given and returns the configuration to use. `preview` gives the
    records that `--dry-run` shows of a configuration, by title.
    """

    stage: str
    summary: str
    examples: tuple[str, ...]
    positional: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None
    preview: Callable[[Any], dict[str, list[dict[str, Any]]]] | None = None


def add_stage_command(app: typer.Typer, name: str, spec: Spec) -> None:
    """Register `name` so that listing it costs nothing; its stage is imported only when it is called."""

    class Lazy(TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            return build_command(name, spec).make_context(info_name, args, parent, **extra)

    app.command(name, cls=Lazy, help=spec.summary)(_never_called)


def add_stage_group(root: typer.Typer, app: typer.Typer, name: str, spec: Spec) -> None:
    """Register `name` as `add_stage_command` does, with the commands of `app` below it.

    They are called where their name is the first argument but for common options; every other call is of the stage.
    """

    class LazyGroup(TyperGroup):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            below = args[leading_common_options(args) :]
            if below and below[0] in self.commands:
                return super().make_context(info_name, args, parent, **extra)
            commands = {
                f"{name} {key}": (command.help or "").partition("\n")[0] for key, command in self.commands.items()
            }
            return build_command(name, spec, commands).make_context(info_name, args, parent, **extra)

    root.add_typer(app, name=name, cls=LazyGroup, help=spec.summary)


def _never_called() -> None:
    raise AssertionError("a lazy command is replaced before it is called")


def build_command(name: str, spec: Spec, commands: Mapping[str, str] | None = None) -> Any:
    """The real command of a stage: one option a role, one a plain configuration field, and the common ones.

    Its help lists `commands` (name -> summary), those that stand below it.
    """
    import longcat.stages  # noqa: F401  declares the stages
    from longcat.pipeline.stage import registry

    stage = registry.get(spec.stage)
    parameters = [*_role_parameters(stage, spec), *_field_parameters(stage, spec), *_common_parameters()]

    def command(ctx: typer.Context, **values: Any) -> None:
        _run(ctx, stage, spec, values)

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    command.__annotations__ = {"ctx": typer.Context, **{p.name: p.annotation for p in parameters}}
    app = typer.Typer(
        add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(name, help=_help_text(stage, spec, commands or {}))(command)
    built: Any = typer.main.get_command(app)
    add_common_options(built, runs_stages=True)
    return built


def _help_text(stage: Stage, spec: Spec, commands: Mapping[str, str]) -> str:
    examples = "\n\n".join(f"  [cyan]{line}[/cyan]" for line in spec.examples)
    # What a stage raises is for those who call it from Python.
    text = (inspect.getdoc(stage.function) or spec.summary).partition("\n\nRaises:")[0]
    below = "\n\n".join(f"  [cyan]longcat {key}[/cyan]  {summary}" for key, summary in commands.items())
    below = f"\n\n[bold]Commands[/bold]\n\n{below}" if below else ""
    return f"{text.replace('[', chr(92) + '[')}\n\n[bold]Examples[/bold]\n\n{examples}{below}"


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _flag(name: str, spec: Spec) -> str:
    return spec.options.get(name, "--" + name.replace("_", "-"))


def _role_parameters(stage: Stage, spec: Spec) -> list[inspect.Parameter]:
    parameters = []
    for role in stage.roles:
        kinds = " or ".join(role.kinds)
        text = f"The {kinds} artifact to read: a name, name@version, an id prefix or a folder."
        text += " May be given several times." if role.several else ""
        option = typer.Option(
            _flag(role.name, spec), help=text, metavar="REF", rich_help_panel="Inputs", show_default=False
        )
        kind = list[str] if role.several else str
        parameters.append(_keyword(f"input__{role.name}", Annotated[kind | None, option]))
    return parameters


def _field_parameters(stage: Stage, spec: Spec) -> list[inspect.Parameter]:
    taken = {role.name for role in stage.roles}
    parameters = []
    for name, info in stage.config.model_fields.items():
        kind = plain_type(info.annotation)
        if kind is None or name in taken:
            continue
        annotation: Any
        if name == spec.positional:
            argument = typer.Argument(metavar=name.upper(), help=info.description, show_default=False)
            annotation = Annotated[kind, argument]
            parameters.append(_keyword(f"config__{name}", annotation, inspect.Parameter.empty))
            continue
        option = typer.Option(
            *_flags(name, kind, spec), help=_describe(info), rich_help_panel="Configuration", show_default=False
        )
        parameters.append(_keyword(f"config__{name}", Annotated[kind | None, option]))
    return parameters


def _flags(name: str, kind: Any, spec: Spec) -> list[str]:
    flag = _flag(name, spec)
    return [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]


def _describe(info: FieldInfo) -> str:
    text = (info.description or "").replace("[", "\\[")
    if info.is_required():
        return f"{text} [dim](required)[/dim]"
    default = info.get_default(call_default_factory=True)
    shown = "none" if default is None else str(default)
    return f"{text} [dim](default: {shown})[/dim]".replace("[]", "\\[]") if len(shown) <= 60 else text


def plain_type(annotation: Any) -> Any:
    """The type of the option for a configuration field; None for fields that only a file or --set can give."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return plain_type(members[0]) if len(members) == 1 else _widest(members)
    if get_origin(annotation) is Literal:
        return str
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    if annotation in (bool, int, float, str):
        return annotation
    if annotation is Path:
        return str
    if get_origin(annotation) in (list, tuple) and all(
        plain_type(a) is str for a in get_args(annotation) if a is not ...
    ):
        return list[str]
    return None


def _widest(members: list[Any]) -> Any:
    kinds = {plain_type(member) for member in members}
    if kinds <= {int, float}:
        return float
    return str if None not in kinds and not any(get_origin(kind) for kind in kinds) else None


def _common_parameters() -> list[inspect.Parameter]:
    panel = "Running"
    options: list[tuple[str, Any, Any]] = [
        (
            "name",
            Annotated[
                str | None,
                typer.Option(
                    "--name", help="Publish the artifact under this name (a new version).", rich_help_panel=panel
                ),
            ],
            None,
        ),
        (
            "config_file",
            Annotated[
                Path | None,
                typer.Option("--config", help="YAML file with configuration values.", rich_help_panel=panel),
            ],
            None,
        ),
        (
            "assignments",
            Annotated[
                list[str] | None,
                typer.Option(
                    "--set", help="key=value for any configuration key, nested with dots.", rich_help_panel=panel
                ),
            ],
            None,
        ),
        (
            "dry_run",
            Annotated[bool, typer.Option("--dry-run", help="Show what would run.", rich_help_panel=panel)],
            False,
        ),
        (
            "show_config",
            Annotated[
                bool,
                typer.Option("--show-config", help="Print every configuration key and end.", rich_help_panel=panel),
            ],
            False,
        ),
        (
            "as_json",
            Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.", rich_help_panel=panel)],
            False,
        ),
    ]
    return [_keyword(name, annotation, default) for name, annotation, default in options]


def _run(ctx: typer.Context, stage: Stage, spec: Spec, values: dict[str, Any]) -> None:
    from longcat.cli.render import print_outcome, print_plan, print_settings
    from longcat.pipeline.config import build_config, load_mapping, merge, parse_assignments
    from longcat.pipeline.runner import execute, plan_named

    given = {name.removeprefix("config__"): value for name, value in values.items() if name.startswith("config__")}
    config = load_mapping(values["config_file"]) if values["config_file"] else {}
    config = merge(config, {name: value for name, value in given.items() if value is not None})
    config = merge(config, parse_assignments(values["assignments"] or []))
    if values["show_config"]:
        print_settings(stage, config, as_json=values["as_json"])
        return
    inputs = {
        name.removeprefix("input__"): value for name, value in values.items() if name.startswith("input__") and value
    }
    if spec.prepare:
        config = spec.prepare(config, inputs)
    where = str(values["config_file"]) if values["config_file"] else f"{stage.name} options"
    parsed = build_config(stage.config, config, where=where)
    session = settings_of(ctx).open_session()
    plan = plan_named(session, stage.name, parsed, inputs, values["name"])
    if values["dry_run"]:
        preview = spec.preview(parsed) if spec.preview else {}
        print_plan(session.store, plan, as_json=values["as_json"], preview=preview)
        return
    print_outcome(execute(plan, session), as_json=values["as_json"])
