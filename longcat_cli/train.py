"""`longcat train`: pretraining, from scratch or from a checkpoint."""

from __future__ import annotations

import typer

from longcat_cli.stage_command import Spec, add_stage_command


def register(root: typer.Typer) -> None:
    """Add the command."""
    add_stage_command(
        root,
        "train",
        Spec(
            "train",
            "Train a LongCat-Flash model on packed tokens.",
            (
                "longcat train --tokens tokens --preset demo --steps 400 --name base",
                "longcat train --tokens tokens --checkpoint grown --steps 200 --name grown-trained",
            ),
        ),
    )
