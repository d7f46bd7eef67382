"""The `longcat` command: registers all commands and turns every error into one line and an exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import traceback
from functools import lru_cache
from importlib import import_module
from typing import Annotated, Any

import typer

from longcat.cli.common_options import add_common_options
from longcat.cli.installation import broken_installation
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
    "  [cyan]longcat run demo --dry-run[/cyan]           what would run, what exists already\n\n"
    "  [cyan]longcat artifacts lineage extended[/cyan]   where a model came from\n\n"
    "  [cyan]longcat serve --checkpoint extended[/cyan]  an OpenAI-compatible server",
)

COMPLETION = "_LONGCAT_COMPLETE"  # set by the shell when it requests completions
# The modules with commands: each has a function `register`.
GROUPS = (
    *("data", "train", "grow", "extend", "quantize", "report", "evaluate", "generate", "chat", "serve", "bench"),
    *("model", "plan", "convert", "recipes", "artifacts", "doctor"),
)
# Commands in pipeline order, with the help panel of each.
PANELS = {
    "Data": ("data",),
    "Model": ("model", "plan", "train", "grow", "extend", "quantize", "eval", "report"),
    "Use": ("generate", "chat", "serve", "bench", "import", "export"),
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
        bool,
        typer.Option("--version", "-V", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Root command; `common_options` reads its options."""


for group in GROUPS:
    import_module(f"longcat.cli.{group}").register(app)


@lru_cache(maxsize=1)
def command() -> Any:
    """Build the command tree, in order, and add the common options to each command."""
    tree: Any = typer.main.get_command(app)
    for panel, names in PANELS.items():
        for name in names:
            tree.commands[name].rich_help_panel = panel
    _order(tree, tuple(name for names in PANELS.values() for name in names))
    _order(tree.commands["data"], DATA)
    add_common_options(tree, root=True)
    return tree


def _order(group: Any, first: tuple[str, ...]) -> None:
    """Move the named commands to the front; the others keep their order."""
    known = group.commands
    group.commands = {name: known[name] for name in (*first, *(name for name in known if name not in first))}


def main() -> None:
    """Run the command line and exit the process with its exit code."""
    # Torch threads that busy-wait waste most of their time as soon as another process needs a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # escape characters that the terminal's encoding lacks
    code = run(sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(code))  # output is complete; only interpreter shutdown remains
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
    4 artifact missing, 5 integrity, 130 interrupted, 141 stdout closed by its reader."""
    from longcat.pipeline.errors import InterruptedRunError, Told
    from longcat.pipeline.interrupt import StopSignal

    if COMPLETION in os.environ:
        return _complete(arguments)
    if "--no-color" in arguments:
        os.environ["NO_COLOR"] = "1"  # before --help is handled, wherever it is given
    stop = StopSignal()
    settings = Settings(stop=stop)
    try:
        with stop.installed():
            command().main(args=arguments, prog_name="longcat", obj=settings)
    except SystemExit as ended:
        return _exit_code(ended)
    except Told as error:
        if settings.debug:
            _print_traceback()
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if stop.requested:  # libraries wrap the exception that a signal raises inside them
            return _fail("interrupted", InterruptedRunError.exit_code)
        return _unforeseen(error, settings.debug)
    finally:
        if (roots := sys.modules.get("longcat.pipeline.roots")) is not None:
            roots.close_all()
    return 0


def _unforeseen(error: Exception, debug: bool) -> int:
    """Exit code for an error that is not a LongcatError; re-raises programming errors."""
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
    """Answer a completion request of the shell; errors leave the typed line unchanged."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            command().main(args=arguments, prog_name="longcat", obj=Settings())
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Exception:
        return 1
    return 0


def _exit_code(ended: SystemExit) -> int:
    # Typer and rich exit the process themselves on a broken pipe, from within their error handler.
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
