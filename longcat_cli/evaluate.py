"""`longcat eval`: losses, needles and samples of one or more checkpoints."""

from __future__ import annotations

import typer

from longcat.cli.stage_command import Spec, add_stage_command


def register(root: typer.Typer) -> None:
    """Add the command."""
    add_stage_command(
        root,
        "eval",
        Spec(
            "evaluate",
            "Evaluate checkpoints: loss, bits per byte, needle in a haystack, samples.",
            ("longcat eval --checkpoint base --checkpoint grown --tokens tokens --name evaluation",),
            options={"checkpoints": "--checkpoint"},
        ),
    )
