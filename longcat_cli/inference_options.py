"""Options that generate, chat and serve share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from longcat.cli import completion
from longcat.cli.settings import settings_of

Checkpoint = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="REF",
        help="A checkpoint: name, name@version, id prefix or folder.",
        autocompletion=completion.references("checkpoint"),
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto: cuda where there is one.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option("--dtype", help="Of the weights; auto: bfloat16 on cuda.")
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: all cores).")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Sample within this probability mass.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Sample among this many tokens.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the sampling.")]


def checkpoint_folder(ctx: typer.Context, reference: str) -> Path:
    """The folder of a checkpoint that a reference means.

    Raises:
        MissingArtifactError: it means nothing.
        UsageError: it means an artifact of another kind.
    """
    from longcat.pipeline.errors import UsageError

    folder = Path(reference).expanduser()
    # A folder that another tool wrote has weights and no manifest.
    if (folder / "config.json").is_file() and not (folder / "manifest.json").is_file():
        return folder
    artifact = settings_of(ctx).open_store().take(reference)
    if artifact.kind != "checkpoint":
        raise UsageError(f"{reference} is a {artifact.kind} artifact, a checkpoint is needed")
    return artifact.path
