"""The `longcat` command: the commands in their order, and how every error becomes one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from functools import lru_cache
from typing import Annotated, Any

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
from longcat.cli.common_options import add_common_options
from longcat.cli.entry import broken_installation
from longcat.cli.pipes import BROKEN_PIPE, drop_stdout, stdout_closed
from longcat.cli.settings import Settings

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

COMPLETION = "_LONGCAT_COMPLETE"  # what the shell sets when it asks for completions
# The commands in the order of the chain, and the panels of the help that they stand in.
PANELS = {
    "Data": ("data",),
    "Model": ("model", "train", "grow", "extend", "eval", "report"),
    "Use": ("generate", "chat", "serve", "import", "export"),
    "Recipes and store": ("run", "recipes", "artifacts"),
    "This machine": ("doctor",),
}
DATA = ("collect", "extract", "filter", "inspect", "train-quality", "dedup", "decontaminate", "tokenizer", "score")


def _print_version(value: bool) -> None:
    if value:
        from longcat.pipeline.environment import code_version

        typer.echo(f"longcat {code_version()}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Options are read by `common_options`."""


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


@lru_cache(maxsize=1)
def command() -> Any:
    """The tree of commands, in order, each with the common options."""
    tree: Any = typer.main.get_command(app)
    for panel, names in PANELS.items():
        for name in names:
            tree.commands[name].rich_help_panel = panel
    _order(tree, tuple(name for names in PANELS.values() for name in names))
    _order(tree.commands["data"], DATA)
    add_common_options(tree, root=True)
    return tree


def _order(group: Any, first: tuple[str, ...]) -> None:
    """The commands named come first, the others after them as they were."""
    known = group.commands
    group.commands = {name: known[name] for name in (*first, *(name for name in known if name not in first))}


def main() -> None:
    """Run the command line and end the process with its exit code."""
    # Threads of torch that spin while they wait lose most of their time as soon as another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is written out
    code = run(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(code))  # all is said; what is left is taking the interpreter down
    try:
        sys.stdout.flush()
    except OSError:
        if not stdout_closed():
            raise
        drop_stdout()
        code = code or BROKEN_PIPE
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 usage, 3 bad config or input,
    4 artifact missing, 5 integrity, 130 interrupted, 141 the reader of the output went away."""
    from longcat.pipeline.errors import InterruptedRunError, LongcatError
    from longcat.pipeline.interrupt import StopSignal

    if COMPLETION in os.environ:
        return _complete(arguments)
    if "--no-color" in arguments:
        os.environ["NO_COLOR"] = "1"  # before --help is heeded, wherever it stands
    stop = StopSignal()
    settings = Settings(stop=stop)
    try:
        with stop.installed():
            command().main(args=arguments, prog_name="longcat", obj=settings)
    except SystemExit as ended:
        return _exit_code(ended)
    except LongcatError as error:
        if settings.debug:
            _print_traceback()
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if stop.requested:  # libraries put errors of their own around what a signal raises within them
            return _fail("interrupted", InterruptedRunError.exit_code)
        return _unforeseen(error, settings.debug)
    finally:
        if (roots := sys.modules.get("longcat.pipeline.roots")) is not None:
            roots.close_all()
    return 0


def _unforeseen(error: Exception, debug: bool) -> int:
    """The exit code for an error that is no LongcatError; raises again what is a fault of the program."""
    from longcat.pipeline.faults import writing_failed

    if isinstance(error, BrokenPipeError) and stdout_closed():
        drop_stdout()
        return BROKEN_PIPE
    if isinstance(error, MemoryError):
        return _fail("out of memory (fewer --workers, or a smaller batch)", 1)
    broken = isinstance(error, ImportError)
    if not broken and not isinstance(error, OSError) and not writing_failed(error):
        raise error
    if debug:
        _print_traceback()
    return _fail(broken_installation(error) if broken else _os_error(error), 1)


def _print_traceback() -> None:
    from longcat.pipeline.printable import printable

    sys.stderr.write(printable(traceback.format_exc()))


def _complete(arguments: list[str]) -> int:
    """Answer the shell. Whatever goes wrong, the line that is being typed stays as it is."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            command().main(args=arguments, prog_name="longcat", obj=Settings())
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Exception:
        return 1
    return 0


def _exit_code(ended: SystemExit) -> int:
    # Typer and rich end the process themselves when a pipe breaks, from within the handler of the error.
    if isinstance(ended.__context__, BrokenPipeError):
        if stdout_closed():
            drop_stdout()
            return BROKEN_PIPE
        return _fail(_os_error(ended.__context__), 1)
    if ended.code is None:
        return 0
    return ended.code if isinstance(ended.code, int) else 1


def _os_error(error: Exception) -> str:
    from longcat.pipeline.faults import machine_error, writing_failed

    if writing_failed(error):
        return str(machine_error(error))
    place = getattr(error, "filename", None)
    return f"{f'{place}: ' if place else ''}{getattr(error, 'strerror', None) or error}"


def _fail(message: str, code: int) -> int:
    from longcat.pipeline.printable import printable

    sys.stderr.write(f"longcat: {' '.join(printable(message).split())}\n")
    return code
