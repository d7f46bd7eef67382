"""`longcat eval`: losses, needle retrieval and samples of one or more checkpoints, and comparisons."""

from __future__ import annotations

from typing import Annotated

import typer

from longcat.cli import completion
from longcat.cli.artifacts_common import Json
from longcat.cli.settings import settings_of
from longcat.cli.stage_command import add_stage_group
from longcat.cli.stage_spec import Spec

app = typer.Typer()
HELP = "An evaluation: name, name@version, id prefix or folder."


def register(root: typer.Typer) -> None:
    """Register the command and its subcommands."""
    app.command("show")(show)
    app.command("compare")(compare)
    add_stage_group(root, app, "eval", EVALUATE)


def show(
    ctx: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="REF", help=HELP, autocompletion=completion.references("evaluation"))
    ],
    as_json: Json = False,
) -> None:
    """Show the report of an evaluation, with heat maps; Markdown in a pipe.

    Example: [cyan]longcat eval show evaluation[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.eval_report import print_heat_maps, print_report
    from longcat.cli.render import artifact_json
    from longcat.stages.evaluate.compare import read_evaluation

    store = settings_of(ctx).open_store()
    artifact = store.resolve(reference)
    evaluation = read_evaluation(artifact)
    if as_json:
        about = artifact_json(store, artifact)
        print_json({key: about[key] for key in ("id", "names", "path", "config")} | evaluation)
    else:
        print_report(artifact.file("report.md").read_text(encoding="utf-8", errors="replace"))
        print_heat_maps(evaluation)


def compare(
    ctx: typer.Context,
    references: Annotated[
        list[str], typer.Argument(metavar="REF...", help=HELP, autocompletion=completion.references("evaluation"))
    ],
    as_json: Json = False,
) -> None:
    """Compare the checkpoints of evaluations, each with its difference from the first.

    Example: [cyan]longcat eval compare evaluation@1 evaluation@2[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.eval_report import print_comparison
    from longcat.stages.evaluate.compare import compare as compare_evaluations

    store = settings_of(ctx).open_store()
    found = compare_evaluations([(reference, store.resolve(reference)) for reference in references])
    if as_json:
        print_json(found.to_json())
    else:
        print_comparison(found)


EVALUATE = Spec(
    "evaluate",
    "Evaluate checkpoints: loss, bits per byte, needle in a haystack, samples.",
    ("longcat eval --checkpoint base --checkpoint grown --tokens tokens --name evaluation",),
    options={"checkpoints": "--checkpoint"},
)
