"""`longcat doctor`: check whether this machine is ready."""

from __future__ import annotations

from typing import Annotated

import typer

from longcat.cli.settings import settings_of


def register(root: typer.Typer) -> None:
    """Register the command."""
    root.command("doctor")(doctor)


def doctor(
    ctx: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False
) -> None:
    """Check Python, packages, the language model, CPU, accelerators, memory and the store.

    Exits with code 1 if something would prevent a stage from running.

    Example: [cyan]longcat doctor[/cyan]
    """
    from longcat.cli.checks import run_checks
    from longcat.cli.console import out, print_json
    from longcat.cli.tables import table
    from longcat.cli.terminal import styled

    found = run_checks(settings_of(ctx).open_store())
    if as_json:
        print_json([{"check": c.name, "state": c.state, "found": c.found, "remedy": c.remedy} for c in found])
    else:
        style = {"ok": "green", "note": "yellow", "problem": "red"}
        rows = table("check", "state", "~found", "~remedy")
        for check in found:
            rows.add_row(check.name, styled(check.state, style[check.state]), check.found, check.remedy)
        out().print(rows)
    if any(check.state == "problem" for check in found):
        raise typer.Exit(1)
