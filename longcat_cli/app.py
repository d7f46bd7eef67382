"""The `longcat` command: global options, the commands, and how every error becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from longcat.cli import (
    artifacts,
    convert,
    data,
    doctor,
    evaluate,
    extend,
    generate,
    grow,
    model,
    recipes,
    report,
    serve,
    train,
)
from longcat.cli.settings import DEFAULT_STORE, EngineName, Settings

app = typer.Typer(
    name="longcat",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From raw web crawl to a served LongCat-Flash model: every stage writes a versioned artifact.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  [cyan]longcat run demo[/cyan]                     the whole chain on this machine\n\n"
    "  [cyan]longcat run demo --dry-run[/cyan]           what would run, what is there already\n\n"
    "  [cyan]longcat artifacts lineage extended[/cyan]   where a model came from\n\n"
    "  [cyan]longcat serve --checkpoint extended[/cyan]  an OpenAI-compatible server",
)


@app.callback()
def settings(
    ctx: typer.Context,
    store: Annotated[
        Path, typer.Option("--store", envvar="LONGCAT_STORE", help="Folder that holds all artifacts.")
    ] = DEFAULT_STORE,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Worker processes of the data stages (default: one a core).")
    ] = None,
    engine: Annotated[
        EngineName, typer.Option("--engine", help="Where the data stages run: processes of this machine, or Ray.")
    ] = EngineName.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", metavar="ADDRESS", help="Running Ray cluster: auto or HOST:PORT (default: start one here)."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, warnings and errors only.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    if version:
        from longcat.pipeline.environment import code_version

        typer.echo(f"longcat {code_version()}")
        raise typer.Exit
    ctx.obj = Settings(
        store=store,
        workers=workers,
        engine=engine,
        ray_address=ray_address,
        debug=debug,
        quiet=quiet,
        stop=ctx.obj,
    )


for module in (
    data,
    train,
    grow,
    extend,
    report,
    evaluate,
    generate,
    serve,
    model,
    convert,
    recipes,
    artifacts,
    doctor,
):
    module.register(app)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Threads of torch that spin while they wait lose most of their time as soon as another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 usage, 3 bad config or input,
    4 artifact missing, 5 integrity, 130 interrupted."""
    from longcat.pipeline.errors import LongcatError
    from longcat.pipeline.interrupt import StopSignal

    debug = "--debug" in arguments
    stop = StopSignal()
    try:
        with stop.installed():
            app(arguments, prog_name="longcat", obj=stop, standalone_mode=True)
    except SystemExit as ended:
        return _exit_code(ended.code)
    except LongcatError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of stdout went away (`longcat ... | head`); nothing more can be told to it.
        sys.stderr.close()
        return 0
    except OSError as error:
        if debug:
            traceback.print_exc()
        return _fail(_os_error(error), 1)
    except MemoryError:
        return _fail("out of memory (fewer --workers, or a smaller batch)", 1)
    return 0


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    return code if isinstance(code, int) else 1


def _os_error(error: OSError) -> str:
    import errno

    place = f"{error.filename}: " if error.filename else ""
    advice = " (free some space and run again; finished work is kept)" if error.errno == errno.ENOSPC else ""
    return f"{place}{error.strerror or error}{advice}"


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"longcat: {' '.join(message.split())}\n")
    return code
