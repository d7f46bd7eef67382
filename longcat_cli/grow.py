"""`longcat grow`: a deeper model by stacking the layers of a trained one."""

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
            "Stack the layers of a checkpoint into a deeper model.",
            ("longcat grow --checkpoint base --factor 2 --name grown",),
        ),
    )
