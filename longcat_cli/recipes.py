"""`longcat run` and `longcat recipes ...`: whole chains from one YAML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli import completion
from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from longcat.pipeline.recipe import Recipe
    from longcat.pipeline.runner import Outcome

app = typer.Typer(
    no_args_is_help=True,
    help="List, show and copy the recipes that come with longcat.\n\n"
    "Example: [cyan]longcat recipes copy demo mine.yaml[/cyan]",
)

SCHEMA_FILE = "longcat-recipe.schema.json"
MODELINE = b"# yaml-language-server: "
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe that comes with longcat, or a YAML file.",
        autocompletion=completion.recipes,
    ),
]


def register(root: typer.Typer) -> None:
    """Add `run` and the group `recipes`."""
    root.command("run")(run)
    root.add_typer(app, name="recipes")


def run(
    ctx: typer.Context,
    recipe: RecipeName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and what is in the store already.")] = False,
    first: Annotated[
        str | None,
        typer.Option("--from", help="First step to run; those before must be there.", autocompletion=completion.steps),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--until", help="Last step to run.", autocompletion=completion.steps)
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="step.key=value, nested with dots; may be given several times.",
            autocompletion=completion.settings_of_recipe,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a recipe: what is missing is made, what is in the store is reused.

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
    """The recipes that come with longcat.

    Example: [cyan]longcat recipes list[/cyan]
    """
    from longcat.cli.console import out, print_json
    from longcat.cli.tables import table

    found = [_load(path) for path in sorted(shipped_folder().glob("*.yaml"))]
    if as_json:
        print_json([{"name": r.name, "description": r.description, "steps": list(r.steps)} for r in found])
        return
    rows = table("recipe", ">steps", "~what it does")
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
def copy(
    recipe: RecipeName, target: Annotated[Path, typer.Argument(help="Where to write the copy (a YAML file).")]
) -> None:
    """Copy a recipe to change it, with its JSON schema beside it for editors.

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
        raise InputError("the file is there already", where=str(target), hint="choose another name")
    if not target.parent.is_dir():
        raise InputError("no such folder", where=str(target.parent))
    write_schema(target.with_name(SCHEMA_FILE))
    atomic_write(target, with_schema(source.read_bytes()))
    say(str(target))


@app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="It is JSON anyway.")] = False,
) -> None:
    """Print the JSON schema of recipes, which tells editors the stages, their keys and what they mean.

    Example: [cyan]longcat recipes schema[/cyan]
    """
    from longcat.cli.console import print_json

    print_json(_schema())


def _schema() -> dict[str, Any]:
    import longcat.stages  # noqa: F401  declares the stages
    from longcat.pipeline.recipe_schema import recipe_schema

    return recipe_schema()


def write_schema(path: Path) -> None:
    """Write the schema of recipes, over an older one.

    Raises:
        InputError: there is a file of that name that is something else.
    """
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.files import atomic_write, pretty_json

    made = _schema()
    if path.exists():
        with path.open("rb") as stream:
            start = stream.read(1000)
        if json.dumps(made["title"]).encode() not in start:
            raise InputError(
                "the file is there already, and no schema of recipes", where=str(path), hint="move it away"
            )
    atomic_write(path, pretty_json(made))


def with_schema(content: bytes) -> bytes:
    """A recipe whose first line tells YAML language servers, which editors ask, where its schema lies."""
    lines = content.splitlines(keepends=True)
    if lines and lines[0].startswith(MODELINE):
        lines = lines[1:]
    return b"".join([MODELINE, b"$schema=./", SCHEMA_FILE.encode(), b"\n", *lines])


def shipped_folder() -> Path:
    """Where the recipes of the distribution lie."""
    from longcat.stages import recipes

    return Path(next(iter(recipes.__path__)))


def find_recipe(name: str) -> Path:
    """The file of a shipped recipe or a path.

    Raises:
        InputError: there is neither.
    """
    from longcat.pipeline.errors import InputError

    shipped = shipped_folder() / f"{name}.yaml"
    if "/" not in name and shipped.is_file():
        return shipped
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = ", ".join(sorted(found.stem for found in shipped_folder().glob("*.yaml")))
    raise InputError(f"no recipe {name!r}", hint=f"a YAML file, or one of: {known}")


def _load(path: Path) -> Recipe:
    import longcat.stages  # noqa: F401  declares the stages
    from longcat.pipeline.recipe import load_recipe

    return load_recipe(path, path.name if path.parent == shipped_folder() else None)
