"""Options that every command accepts, before or after its name; declared once for the whole command tree."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from longcat.cli.given_once import refuse_repeats
from longcat.cli.settings import DEFAULT_STORE, EngineName, settings_of

PANEL = "Common options"
# Used only by commands that run stages; the others accept these options but do not list them.
RUNNING = frozenset({"workers", "engine", "ray_address"})
_PREFIX = "common__"


def _take(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    """Store an option's value in the settings of this call; one given nearer to the end of the line wins."""
    source = ctx.get_parameter_source(str(param.name))
    if source is None or source.name not in ("COMMANDLINE", "ENVIRONMENT"):
        return value
    field, settings = str(param.name).removeprefix(_PREFIX), settings_of(ctx)
    setattr(settings, field, value)
    if field == "quiet":
        settings.verbose = False
    elif field == "verbose":
        settings.quiet = False
    return value


def _option(text: str, *flags: str, **more: Any) -> Any:
    return typer.Option(*flags, help=text, callback=_take, expose_value=False, rich_help_panel=PANEL, **more)


_Store = Annotated[Path, _option("Folder of all artifacts.", "--store", metavar="DIR", envvar="LONGCAT_STORE")]
_Json = Annotated[bool, _option("JSON on stdout.", "--json", metavar="")]
_Quiet = Annotated[bool, _option("Warnings and errors only.", "--quiet", "-q", metavar="")]
_Verbose = Annotated[bool, _option("Debug messages too.", "--verbose", "-v", metavar="")]
_Debug = Annotated[bool, _option("Debug messages, and tracebacks of errors.", "--debug", metavar="")]
_NoColor = Annotated[bool, _option("No colours; NO_COLOR does the same.", "--no-color", metavar="")]
_Workers = Annotated[
    int | None, _option("Processes of data stages (default: one per core).", "--workers", min=1, metavar="N")
]
_Engine = Annotated[EngineName, _option("Where data stages run.", "--engine")]
_RayAddress = Annotated[
    str | None, _option("auto or HOST:PORT (default: start Ray on this machine).", "--ray-address", metavar="ADDRESS")
]


def _declared(
    common__store: _Store = DEFAULT_STORE,
    common__json: _Json = False,
    common__quiet: _Quiet = False,
    common__verbose: _Verbose = False,
    common__debug: _Debug = False,
    common__no_color: _NoColor = False,
    common__workers: _Workers = None,
    common__engine: _Engine = EngineName.LOCAL,
    common__ray_address: _RayAddress = None,
) -> None:
    """Template whose parameters are the common options."""


@lru_cache(maxsize=1)
def _parameters() -> tuple[Any, ...]:
    app = typer.Typer(add_completion=False)
    app.command()(_declared)
    return tuple(typer.main.get_command(app).params)


def add_common_options(command: Any, *, root: bool = False, runs_stages: bool = False) -> None:
    """Add the common options to `command` and all its subcommands, and make them refuse options given twice.

    An option of the command with the same name takes precedence. Only the root reads environment variables.
    """
    refuse_repeats(command)
    own = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    group = isinstance(command, TyperGroup)
    for declared in _parameters():
        name = declared.name.removeprefix(_PREFIX)
        param = copy.copy(declared)
        param.opts = [flag for flag in declared.opts if flag not in own]
        param.hidden = name in RUNNING and not (root or runs_stages)
        if not root:
            param.envvar = None
            param.show_default = False
        if name == "json" and not group:
            # Commands that print JSON declare --json themselves; the others accept it only to report that they do not.
            param.callback, param.hidden = _refuse_json, True
        if param.opts:
            command.params.append(param)
    for param in command.params:
        if "--json" in param.opts and not param.name.startswith(_PREFIX):
            param.rich_help_panel, param.callback = PANEL, _json_here_or_before
    for below in command.commands.values() if group else ():
        add_common_options(below, runs_stages=below.name == "run")


def _json_here_or_before(ctx: typer.Context, _: Any, value: Any) -> bool:
    return bool(value) or settings_of(ctx).json


def _refuse_json(ctx: typer.Context, _: Any, value: Any) -> Any:
    from longcat.pipeline.errors import UsageError

    if (value or settings_of(ctx).json) and not ctx.resilient_parsing:
        raise UsageError(f"`{ctx.command_path}` does not print JSON", hint="remove --json")
    return value


def leading_common_options(arguments: Sequence[str]) -> int:
    """Number of leading arguments that are common options or their values."""
    takes_value = {flag: not param.is_flag for param in _parameters() for flag in param.opts}
    position = 0
    while position < len(arguments):
        flag, joined, _ = arguments[position].partition("=")
        if flag not in takes_value:
            break
        position += 2 if takes_value[flag] and not joined else 1
    return min(position, len(arguments))
