"""`longcat report`: one HTML page about training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longcat.cli import completion
from longcat.cli.settings import settings_of


def register(root: typer.Typer) -> None:
    """Register the command."""
    root.command("report")(report)


def report(
    ctx: typer.Context,
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A checkpoint (name, name@version, id prefix, folder), a run in progress (its name or id prefix) "
            "or a metrics.jsonl; several are overlaid.",
            autocompletion=completion.references("checkpoint"),
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="Output file; replaced if it exists.")
    ] = Path("report.html"),
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures of each run as JSON on stdout.")] = False,
) -> None:
    """Write one self-contained HTML page with the curves and figures of training runs.

    Examples:

      [cyan]longcat report base[/cyan]

      [cyan]longcat report base grown-on --output both.html --open[/cyan]
    """
    from longcat.cli.console import out, print_json, size
    from longcat.cli.terminal import line
    from longcat.pipeline.files import atomic_write
    from longcat.stages.report.page import render_page
    from longcat.stages.report.runs import find_run
    from longcat.stages.report.summary import figures

    store = settings_of(ctx).open_store()
    runs = [find_run(store, reference) for reference in references]
    page = render_page(store, runs).encode()
    atomic_write(output, page)
    if as_json:
        print_json({"output": str(output.absolute()), "bytes": len(page), "runs": [figures(run) for run in runs]})
    else:
        out().print(line(output, f"  {size(len(page))}"))
    if open_page:
        import webbrowser

        webbrowser.open(output.absolute().as_uri())
