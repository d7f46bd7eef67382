"""`longcat import` and `longcat export`: checkpoints from and for transformers, vLLM and SGLang."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from longcat.cli import completion
from longcat.cli.inference_options import checkpoint_folder
from longcat.cli.settings import settings_of
from longcat.cli.stage_command import add_stage_command
from longcat.cli.stage_spec import Spec


class LayoutName(StrEnum):
    """Which tensors a checkpoint has."""

    PUBLISHED = "published"
    TRANSFORMERS5 = "transformers5"


class DtypeName(StrEnum):
    """Dtype of all weights except the routers."""

    STORED = "stored"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class WeightsName(StrEnum):
    """How matrices are stored."""

    PLAIN = "plain"
    FP8 = "fp8"


def register(root: typer.Typer) -> None:
    """Register the commands."""
    spec = Spec(
        "import",
        "Import a checkpoint of another tool into the store.",
        ("longcat import ~/models/LongCat-Flash-Chat --name flash", "longcat import exported/ --name back --json"),
        positional="folder",
    )
    add_stage_command(root, "import", spec)
    root.command("export")(export)


def export(
    ctx: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="A checkpoint: name, name@version, id prefix or folder.",
            autocompletion=completion.references("checkpoint"),
        ),
    ],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder to create.")],
    layout: Annotated[
        LayoutName,
        typer.Option("--layout", help="published: vLLM, SGLang, transformers 4.57. transformers5: transformers 5."),
    ] = LayoutName.PUBLISHED,
    dtype: Annotated[
        DtypeName, typer.Option("--dtype", help="Dtype of the weights; routers stay at least float32.")
    ] = DtypeName.STORED,
    weights: Annotated[
        WeightsName,
        typer.Option("--weights", help="fp8: matrices as float8 with scales of 128 x 128 blocks, the rest bfloat16."),
    ] = WeightsName.PLAIN,
    allow_incompatible: Annotated[
        bool,
        typer.Option(
            "--allow-incompatible", help="Also write a model that other tools load and compute something else with."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Write a checkpoint and its tokenizer to a folder that other tools can load.

    The folder appears only when complete. Importing it again gives identical weights, and a shared table becomes two.

    Examples:

      [cyan]longcat export extended --output extended-hf --layout transformers5[/cyan]

      [cyan]longcat export extended --output extended-vllm --dtype bfloat16[/cyan]

      [cyan]longcat export extended --output extended-fp8 --weights fp8[/cyan]
    """
    from longcat.cli.console import make_progress, print_json, say
    from longcat.stages.convert import export_checkpoint

    settings = settings_of(ctx)
    result = export_checkpoint(
        checkpoint_folder(ctx, checkpoint),
        output,
        layout=layout.value,
        dtype=dtype.value,
        weights=weights.value,
        allow_incompatible=allow_incompatible,
        progress=make_progress(quiet=settings.quiet),
    )
    if result["incompatible"] is not None:
        say(f"warning: {result['incompatible']}, which may load this folder and compute something else")
    if as_json:
        print_json({"checkpoint": checkpoint, **result})
    else:
        _print(checkpoint, result)


def _print(checkpoint: str, result: dict[str, Any]) -> None:
    from longcat.cli.console import out, size
    from longcat.cli.terminal import line, styled

    console = out()
    what = f"  {result['layout']} layout, {size(result['weight_bytes'])} of weights"
    console.print(line(styled(checkpoint, "bold"), what))
    console.print(", ".join(result["files"]))
    console.print(line(styled(result["path"], "dim")))
