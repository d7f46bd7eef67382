"""Stage commands: options are built from the stage's configuration and inputs when the command is first used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from longcat.cli import completion
from longcat.cli.common_options import add_common_options, leading_common_options
from longcat.cli.given_once import refuse_both_ways
from longcat.cli.settings import settings_of
from longcat.cli.stage_options import field_parameters, flag_of, given_fields, keyword, role_parameters
from longcat.cli.stage_spec import Spec

if TYPE_CHECKING:
    from longcat.pipeline.plans import Plan
    from longcat.pipeline.runner import Session
    from longcat.pipeline.stage import Stage


def add_stage_command(app: typer.Typer, name: str, spec: Spec) -> None:
    """Register `name` lazily; its stage is imported only when the command is called."""

    class Lazy(TyperCommand):
        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            return build_command(name, spec).make_context(info_name, args, parent, **extra)

    app.command(name, cls=Lazy, help=spec.summary)(_never_called)


def add_stage_group(root: typer.Typer, app: typer.Typer, name: str, spec: Spec) -> None:
    """Register `name` as `add_stage_command` does, with the commands of `app` as subcommands.

    A subcommand is called if its name is the first argument besides common options; every other call runs the stage.
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
    """Build the command of a stage: one option per role, one per plain configuration field, and the common ones.

    Its help lists `commands` (name -> summary), its subcommands.
    """
    import longcat.stages  # noqa: F401  declares the stages
    from longcat.pipeline.stage import registry

    stage = registry.get(spec.stage)
    parameters = [*role_parameters(stage, spec), *_resume_parameters(stage, spec), *field_parameters(stage, spec)]
    parameters += _running_parameters(stage)

    def command(ctx: typer.Context, **values: Any) -> None:
        _run(ctx, stage, spec, values)

    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    command.__annotations__ = {"ctx": typer.Context, **{p.name: p.annotation for p in parameters}}
    app = typer.Typer(
        add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(name, cls=_completing(commands or {}), help=_help_text(stage, spec, commands or {}))(command)
    built: Any = typer.main.get_command(app)
    add_common_options(built, runs_stages=True)
    return built


def _completing(commands: Mapping[str, str]) -> type[TyperCommand]:
    """Command whose completion offers its subcommands, then its options."""

    class Completing(TyperCommand):
        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            options = super().shell_complete(ctx, "-")
            kind = type(options[0])
            names = {name.rpartition(" ")[2]: text for name, text in commands.items()}
            below = [kind(name, help=text) for name, text in names.items() if name.startswith(incomplete)]
            return below + [option for option in options if option.value.startswith(incomplete)]

    return Completing


def _shown(key: str, spec: Spec) -> str:
    return "an argument" if key == spec.positional else flag_of(key, spec)


def _help_text(stage: Stage, spec: Spec, commands: Mapping[str, str]) -> str:
    examples = "\n\n".join(f"  [cyan]{line}[/cyan]" for line in spec.examples)
    # The "Raises" section is for Python callers only.
    text = (inspect.getdoc(stage.function) or spec.summary).partition("\n\nRaises:")[0]
    below = "\n\n".join(f"  [cyan]longcat {key}[/cyan]  {summary}" for key, summary in commands.items())
    below = f"\n\n[bold]Commands[/bold]\n\n{below}" if below else ""
    return f"{text.replace('[', chr(92) + '[')}\n\n[bold]Examples[/bold]\n\n{examples}{below}"


def _resume_parameters(stage: Stage, spec: Spec) -> list[inspect.Parameter]:
    if spec.resume is None:
        return []
    option = typer.Option(
        "--resume-from",
        metavar="RUN[@STEP]",
        help="Go on from a save of a run, finished or not, with other settings: a name, an id or an id prefix, and the "
        "step of the save (default: the newest). What is not given comes from that run; steps and phases count from "
        "its start.",
        rich_help_panel="Inputs",
        show_default=False,
        autocompletion=completion.references(stage.output),
    )
    return [keyword("resume_from", Annotated[str | None, option])]


def _running_parameters(stage: Stage) -> list[inspect.Parameter]:
    def option(flag: str, text: str, **more: Any) -> Any:
        return typer.Option(flag, help=text, rich_help_panel="Running", **more)

    names = completion.references(stage.output)
    keys = completion.settings_of_stage(stage.name)
    return [
        keyword(
            "name",
            Annotated[
                str | None,
                option("--name", "Publish the artifact under this name (a new version).", autocompletion=names),
            ],
        ),
        keyword("config_file", Annotated[Path | None, option("--config", "YAML file with configuration values.")]),
        keyword(
            "assignments",
            Annotated[
                list[str] | None,
                option(
                    "--set", "key=value for any configuration key, nested with dots. Repeatable.", autocompletion=keys
                ),
            ],
        ),
        keyword("dry_run", Annotated[bool, option("--dry-run", "Show what would run, without running it.")], False),
        keyword(
            "show_config", Annotated[bool, option("--show-config", "Print all configuration keys and exit.")], False
        ),
        keyword("as_json", Annotated[bool, option("--json", "JSON on stdout.", metavar="")], False),
    ]


def _run(ctx: typer.Context, stage: Stage, spec: Spec, values: dict[str, Any]) -> None:
    from longcat.cli.render import print_outcome, print_plans, print_settings
    from longcat.pipeline.config import load_mapping, merge, parse_assignments
    from longcat.pipeline.runner import execute

    config = load_mapping(values["config_file"]) if values["config_file"] else {}
    given, assigned = given_fields(values), parse_assignments(values["assignments"] or [])
    refuse_both_ways(given, assigned, {key: _shown(key, spec) for key in given})
    config = merge(merge(config, given), assigned)
    if values["show_config"]:
        print_settings(stage, config, as_json=values["as_json"])
        return
    session = settings_of(ctx).open_session()
    plans = _plans(session, stage, spec, config, values)
    if values["dry_run"]:
        preview = spec.preview(plans[-1].config) if spec.preview else {}
        print_plans(session.store, plans, as_json=values["as_json"], preview=preview)
        return
    for plan in plans:
        outcome = execute(plan, session)
    print_outcome(outcome, as_json=values["as_json"])
    outcome.check_something_is_left()


def _plans(session: Session, stage: Stage, spec: Spec, config: dict[str, Any], values: Mapping[str, Any]) -> list[Plan]:
    """The plan of the stage, after those of artifacts that it needs."""
    from longcat.pipeline.config import build_config
    from longcat.pipeline.runner import plan_named

    inputs = {
        name.removeprefix("input__"): value for name, value in values.items() if name.startswith("input__") and value
    }
    if spec.resume and values["resume_from"]:
        return spec.resume(session, values["resume_from"], config, inputs, values["name"])
    if spec.prepare:
        config = spec.prepare(config, inputs)
    where = str(values["config_file"]) if values["config_file"] else f"{stage.name} options"
    parsed = build_config(stage.config, config, where=where)
    if spec.complete:
        inputs = spec.complete(session.store, inputs)
    return [plan_named(session, stage.name, parsed, inputs, values["name"])]
