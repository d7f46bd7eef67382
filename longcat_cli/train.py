"""`longcat train`: pretraining from scratch or from a checkpoint, and commands to tune and verify it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from longcat.cli import completion
from longcat.cli.settings import settings_of
from longcat.cli.stage_command import add_stage_command, add_stage_group
from longcat.cli.stage_spec import Spec

app = typer.Typer()


def register(root: typer.Typer) -> None:
    """Register the command and its subcommands."""
    add_stage_command(app, "sweep", SWEEP)
    add_stage_command(app, "coord-check", COORD_CHECK)
    app.command("verify")(verify)
    add_stage_group(root, app, "train", TRAIN)


def _keep_what_is_given(config: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """With a proxy, keep values given by the user, even if they equal the default."""
    if "proxy" not in inputs:
        return config
    from longcat.stages.train.optim.transfer import given_settings

    return config | {"keep_own": sorted({*config.get("keep_own", ()), *given_settings(config)})}


def _grid(config: Any) -> dict[str, list[dict[str, Any]]]:
    from longcat.stages.train.sweep.grid import grid_points

    return {"grid": [dict(point) for point in grid_points(config)]}


def _widths(config: Any) -> dict[str, list[dict[str, Any]]]:
    from longcat.stages.train.coord_check.config import width_table

    return {"widths": width_table(config)}


def verify(
    ctx: typer.Context,
    reference: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A trained or extended checkpoint: name, id prefix or folder.",
            autocompletion=completion.references("checkpoint"),
        ),
    ],
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Number of steps to repeat (all if the run has fewer).")
    ] = 10,
    twice: Annotated[
        bool, typer.Option("--twice", help="Repeat them twice and also compare the two repetitions.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Repeat the first steps of a training run and compare every figure bit by bit.

    Example: [cyan]longcat train verify base --steps 20[/cyan]
    """
    from longcat.cli.console import out, print_json
    from longcat.cli.tables import table
    from longcat.pipeline.errors import IntegrityError
    from longcat.pipeline.values import written
    from longcat.stages.train.verify import verify_training

    session = settings_of(ctx).open_session()
    found = verify_training(session, session.store.take(reference), steps=steps, twice=twice)
    if as_json:
        print_json(found.to_json())
    else:
        rows = table("compared", ">steps", "result", "field", "first run", "second run")
        for item in found.comparisons:
            found_values = ("" if value is None else written(value, exact=True) for value in (item.first, item.second))
            rows.add_row(item.what, str(item.steps), item.result, item.field or "", *found_values)
        out().print(rows)
        for sentence in found.explanations:
            out().print(f"  {sentence}")
    if not found.same:
        raise IntegrityError(found.summary, where=f"checkpoint {found.checkpoint}")


TRAIN = Spec(
    "train",
    "Train a LongCat-Flash model on packed tokens.",
    (
        "longcat train --tokens tokens --preset demo --steps 400 --name base",
        "longcat train --tokens tokens --checkpoint grown --steps 200 --name grown-on",
        "longcat train --tokens tokens --preset longcat-1b --steps 400 --nproc-per-node 8 --set parallel.expert=8",
        "longcat train --tokens tokens --preset demo --steps 400 --transfer-from proxy --name wide",
    ),
    options={"proxy": "--transfer-from"},
    prepare=_keep_what_is_given,
)
SWEEP = Spec(
    "train.sweep",
    "Train a small model at every point of a grid, to find its learning rate and initialization scale.",
    (
        "longcat train sweep --tokens tokens --preset tiny --steps 200 --name proxy",
        "longcat train sweep --tokens tokens --preset tiny --steps 200 --grid learning_rate=1e-3,3e-3,1e-2 --dry-run",
    ),
    preview=_grid,
)
COORD_CHECK = Spec(
    "train.coord-check",
    "Check that activation sizes do not change with model width, with and without transfer.",
    ("longcat train coord-check --tokens tokens --preset tiny --name coord-check",),
    preview=_widths,
)
