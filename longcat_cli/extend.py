"""`longcat extend`: longer context in phases of RoPE base and sequence length, and its bundled schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli import completion
from longcat.cli.artifacts_common import Json
from longcat.cli.stage_command import add_stage_group
from longcat.cli.stage_spec import Spec

if TYPE_CHECKING:
    from longcat.pipeline.plans import Plan
    from longcat.pipeline.runner import Session
    from longcat.stages.extend.schedules import LengthSchedule

app = typer.Typer()
schedules = typer.Typer(
    no_args_is_help=True,
    help="List and show the bundled schedules.\n\nExample: [cyan]longcat extend schedules list[/cyan]",
)


def register(root: typer.Typer) -> None:
    """Register the command and its subcommands."""
    app.add_typer(schedules, name="schedules")
    add_stage_group(root, app, "extend", EXTEND)


@schedules.command("list")
def list_schedules(as_json: Json = False) -> None:
    """List the bundled schedules.

    Example: [cyan]longcat extend schedules list[/cyan]
    """
    from longcat.cli.console import out, print_json
    from longcat.cli.tables import table
    from longcat.stages.extend.schedules import load_schedule, schedule_names

    found = [load_schedule(name) for name in schedule_names()]
    if as_json:
        print_json([item._asdict() for item in found])
        return
    rows = table("schedule", ">phases", ">longest", ">steps", ">tokens", "~description")
    for item in found:
        rows.add_row(item.name, *_figures(item), item.description)
    out().print(rows)


@schedules.command("show")
def show_schedule(
    name: Annotated[
        str,
        typer.Argument(metavar="SCHEDULE", help="A bundled schedule.", autocompletion=completion.length_schedules),
    ],
    as_json: Json = False,
) -> None:
    """Print a schedule as a file for --config, to start your own from.

    Example: [cyan]longcat extend schedules show longcat-flash[/cyan]
    """
    import textwrap

    import yaml

    from longcat.cli.console import print_json
    from longcat.cli.terminal import write_text
    from longcat.pipeline.errors import UsageError
    from longcat.stages.extend.schedules import load_schedule

    try:
        found = load_schedule(name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if as_json:
        print_json(found._asdict())
        return
    about = textwrap.fill(found.description, 100, initial_indent="# ", subsequent_indent="# ")
    write_text(f"{about}\n{yaml.safe_dump(found.config, sort_keys=False, width=120)}")


def _figures(schedule: LengthSchedule) -> tuple[str, ...]:
    from longcat.pipeline.config import build_config
    from longcat.stages.extend.config import ExtendConfig

    phases = build_config(ExtendConfig, schedule.config, where=f"schedule {schedule.name}").phases
    tokens = sum(phase.step_count * phase.batch_size * phase.sequence_length for phase in phases)
    steps = sum(phase.step_count for phase in phases)
    return str(len(phases)), f"{max(phase.sequence_length for phase in phases):,}", f"{steps:,}", f"{tokens:,}"


def _resume(
    session: Session, text: str, config: dict[str, Any], inputs: dict[str, Any], name: str | None
) -> list[Plan]:
    from longcat.stages.extend.resume_from import plan_extension

    return plan_extension(session, text, config, inputs, name)


EXTEND = Spec(
    "extend",
    "Extend the context of a checkpoint, in phases.",
    (
        "longcat extend --checkpoint base --tokens tokens --schedule longcat-flash --name extended",
        "longcat extend --checkpoint base --tokens tokens --config extend.yaml --name extended",
        "longcat extend --resume-from extended@60 --learning-rate 1e-4 --name lower",
    ),
    options={"length_schedule": "--schedule"},
    resume=_resume,
)
