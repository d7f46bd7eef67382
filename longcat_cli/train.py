"""`longcat train`: pretraining from scratch or from a checkpoint, and commands to tune and verify it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli import completion
from longcat.cli.settings import settings_of
from longcat.cli.stage_command import add_stage_command, add_stage_group
from longcat.cli.stage_spec import Spec

if TYPE_CHECKING:
    from longcat.pipeline.plans import Plan
    from longcat.pipeline.runner import Session

app = typer.Typer()


def register(root: typer.Typer) -> None:
    """Register the command and its subcommands."""
    add_stage_command(app, "sweep", SWEEP)
    add_stage_command(app, "coord-check", COORD_CHECK)
    app.command("publish")(publish)
    app.command("verify")(verify)
    add_stage_group(root, app, "train", TRAIN)


def _keep_what_is_given(config: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """With a proxy, keep values given by the user, even if they equal the default."""
    if "proxy" not in inputs:
        return config
    from longcat.stages.train.optim.transfer import given_settings

    return config | {"keep_own": sorted({*config.get("keep_own", ()), *given_settings(config)})}


def _resume(
    session: Session, text: str, config: dict[str, Any], inputs: dict[str, Any], name: str | None
) -> list[Plan]:
    from longcat.stages.train.joins.resume_from import plan_resumption

    return plan_resumption(session, text, config, inputs, name)


def _grid(config: Any) -> dict[str, list[dict[str, Any]]]:
    from longcat.stages.train.sweep.grid import grid_points

    return {"grid": [dict(point) for point in grid_points(config)]}


def _widths(config: Any) -> dict[str, list[dict[str, Any]]]:
    from longcat.stages.train.coord_check.config import kinds_by_width, width_table

    return {"widths": width_table(config), "values by kind of parameter": kinds_by_width(config)}


def publish(
    ctx: typer.Context,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@STEP]",
            help="A training run, finished or not: name, id or id prefix; and the step of a save, counted from the "
            "start of the run (default: the newest).",
            autocompletion=completion.references("checkpoint"),
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Publish the artifact under this name (a new version).",
            autocompletion=completion.references("checkpoint"),
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run, without running it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Make a save of a training run a checkpoint, to evaluate it or to branch from it.

    `--set keep_every=N` keeps the saves of every N steps, also after the run has finished.

    Examples:

      [cyan]longcat train publish base@300 --name base-300[/cyan]

      [cyan]longcat train publish 93f791cc --name rescued[/cyan]
    """
    from longcat.cli.render import print_artifacts, print_outcome, print_plans
    from longcat.pipeline.plans import Plan
    from longcat.stages.train.joins.resume_from import plan_publish, publish_run

    session = settings_of(ctx).open_session()
    if not dry_run:
        print_outcome(publish_run(session, run, name), as_json=as_json)
        return
    plan = plan_publish(session, run, name)
    if isinstance(plan, Plan):
        print_plans(session.store, [plan], as_json=as_json)
    else:
        print_artifacts(session.store, [plan], as_json=as_json)


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
        "longcat train --tokens tokens --preset demo --steps 400 --set optimizer.kind=muon --name muon",
        "longcat train --resume-from base --steps 600 --name base-600",
        "longcat train --resume-from base@300 --learning-rate 5e-4 --name lower",
    ),
    options={"proxy": "--transfer-from"},
    prepare=_keep_what_is_given,
    resume=_resume,
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
