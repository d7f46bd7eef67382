"""`longcat run` and `longcat recipes ...`: run whole pipelines from one YAML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli import completion
from longcat.cli.recipe_files import find_recipe, shipped_folder
from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from longcat.pipeline.recipe import Recipe
    from longcat.pipeline.runner import Outcome

app = typer.Typer(
    no_args_is_help=True,
    help="List, show and copy the bundled recipes.\n\nExample: [cyan]longcat recipes copy demo mine.yaml[/cyan]",
)

SCHEMA_FILE = "longcat-recipe.schema.json"
MODELINE = b"# yaml-language-server: "
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A bundled recipe, or a YAML file.",
        autocompletion=completion.recipes,
    ),
]


def register(root: typer.Typer) -> None:
    """Register `run` and the group `recipes`."""
    root.command("run")(run)
    root.add_typer(app, name="recipes")


def run(
    ctx: typer.Context,
    recipe: RecipeName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what is already in the store.")] = False,
    first: Annotated[
        str | None,
        typer.Option(
            "--from", help="First step to run; earlier steps must be in the store.", autocompletion=completion.steps
        ),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--until", help="Last step to run.", autocompletion=completion.steps)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="step.key=value, nested with dots; repeatable.",
            autocompletion=completion.settings_of_recipe,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: make missing artifacts, reuse those in the store.

    Examples:

      [cyan]longcat run demo[/cyan]

      [cyan]longcat run demo --dry-run[/cyan]

      [cyan]longcat run demo --set base.steps=800 --until base[/cyan]
    """
    from longcat.cli.render import print_outcomes, print_recipe_plan
    from longcat.pipeline.config import parse_assignments
    from longcat.pipeline.errors import NothingLeftError
    from longcat.pipeline.recipe import plan_recipe, run_steps, with_settings

    session = settings_of(ctx).open_session()
    loaded = _load(find_recipe(recipe))
    chosen = with_settings(loaded, parse_assignments(assignments or []))
    steps = plan_recipe(chosen, session.store, first=first, last=last)
    if dry_run:
        print_recipe_plan(session.store, chosen, steps, as_json=as_json)
        return
    outcomes: list[Outcome] = []
    try:
        run_steps(steps, session, outcomes.append)
    except NothingLeftError:
        print_outcomes(session.store, outcomes, as_json=as_json, recipe=chosen.name)
        raise
    print_outcomes(session.store, outcomes, as_json=as_json, recipe=chosen.name)


@app.command("list")
def list_recipes(as_json: Json = False) -> None:
    """List the bundled recipes.

    Example: [cyan]longcat recipes list[/cyan]
    """
    from longcat.cli.console import out, print_json
    from longcat.cli.tables import table

    found = [_load(path) for path in sorted(shipped_folder().glob("*.yaml"))]
    if as_json:
        print_json([{"name": r.name, "description": r.description, "steps": list(r.steps)} for r in found])
        return
    rows = table("recipe", ">steps", "~description")
    for item in found:
        rows.add_row(item.name, str(len(item.steps)), item.description)
    out().print(rows)


@app.command()
def show(recipe: RecipeName, as_json: Json = False) -> None:
    """Print a recipe.

    Example: [cyan]longcat recipes show demo[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.terminal import write_text

    path = find_recipe(recipe)
    loaded = _load(path)
    if as_json:
        print_json(loaded.model_dump(mode="json"))
    else:
        write_text(path.read_text(encoding="utf-8"))


@app.command()
def copy(recipe: RecipeName, target: Annotated[Path, typer.Argument(help="YAML file to write.")]) -> None:
    """Copy a recipe for editing, with its JSON schema for editors in the same folder.

    Example: [cyan]longcat recipes copy demo mine.yaml[/cyan]
    """
    from longcat.cli.console import say
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.files import atomic_write

    source = find_recipe(recipe)
    _load(source)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise InputError("the file already exists", where=str(target), hint="choose another name")
    if not target.parent.is_dir():
        raise InputError("no such folder", where=str(target.parent))
    write_schema(target.with_name(SCHEMA_FILE))
    atomic_write(target, with_schema(source.read_bytes()))
    say(str(target))


@app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="Accepted; the output is always JSON.")] = False,
) -> None:
    """Print the JSON schema of recipes: stages, their keys and descriptions.

    Example: [cyan]longcat recipes schema[/cyan]
    """
    from longcat.cli.console import print_json

    print_json(_schema())


def _schema() -> dict[str, Any]:
    import longcat.stages  # noqa: F401  declares the stages
    from longcat.pipeline.recipe_schema import recipe_schema

    return recipe_schema()


def write_schema(path: Path) -> None:
    """Write the recipe schema, replacing an older one.

    Raises:
        InputError: the file exists and is not a recipe schema.
    """
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.files import atomic_write, pretty_json

    made = _schema()
    if path.exists():
        with path.open("rb") as stream:
            start = stream.read(1000)
        if json.dumps(made["title"]).encode() not in start:
            raise InputError("the file already exists and is not a recipe schema", where=str(path), hint="move it away")
    atomic_write(path, pretty_json(made))


def with_schema(content: bytes) -> bytes:
    """Recipe text whose first line gives YAML language servers the path of its schema."""
    lines = content.splitlines(keepends=True)
    if lines and lines[0].startswith(MODELINE):
        lines = lines[1:]
    return b"".join([MODELINE, b"$schema=./", SCHEMA_FILE.encode(), b"\n", *lines])


def _load(path: Path) -> Recipe:
    import longcat.stages  # noqa: F401  declares the stages
    from longcat.pipeline.recipe import load_recipe

    return load_recipe(path, path.name if path.parent == shipped_folder() else None)
