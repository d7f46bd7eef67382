"""`longcat grow`: a deeper model by repeating the layers of a trained one."""

from __future__ import annotations

import typer

from longcat.cli.stage_command import add_stage_command
from longcat.cli.stage_spec import Spec


def register(root: typer.Typer) -> None:
    """Register the command."""
    add_stage_command(
        root,
        "grow",
        Spec(
            "grow",
            "Repeat the layers of a checkpoint to make a deeper model.",
            (
                "longcat grow base --factor 2 --name grown",
                "longcat grow base --factor 2 --order interleave --range 4:12 --moments zero --name grown",
            ),
            positional="checkpoint",
        ),
    )
