"""`longcat extend`: longer context in phases of RoPE base and sequence length."""

from __future__ import annotations

import typer

from longcat.cli.stage_command import add_stage_command
from longcat.cli.stage_spec import Spec


def register(root: typer.Typer) -> None:
    """Register the command."""
    add_stage_command(
        root,
        "extend",
        Spec(
            "extend",
            "Extend the context of a checkpoint, in phases.",
            ("longcat extend --checkpoint base --tokens tokens --name extended",),
        ),
    )
