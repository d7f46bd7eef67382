"""Parameters shared by the artifact commands."""

from __future__ import annotations

from typing import Annotated

import typer

from longcat.cli import completion

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="A name, name@version, an id prefix or a folder.",
        autocompletion=completion.references(),
    ),
]
