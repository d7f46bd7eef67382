"""`longcat artifacts ...`: look at the store, check it, and clear what nothing stands on."""

from __future__ import annotations

from typing import Annotated

import typer

from longcat.cli.settings import settings_of

app = typer.Typer(no_args_is_help=True, help="List, show, trace, compare, verify and clear artifacts.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Reference = Annotated[str, typer.Argument(metavar="REF", help="A name, name@version, an id prefix or a folder.")]


def register(root: typer.Typer) -> None:
    """Add the group to the command line."""
    root.add_typer(app, name="artifacts")


@app.command("list")
def list_artifacts(
    ctx: typer.Context,
    kind: Annotated[str | None, typer.Option("--kind", help="Only artifacts of this kind, e.g. checkpoint.")] = None,
    as_json: Json = False,
) -> None:
    """All artifacts of the store, oldest first.

    Example: [cyan]longcat artifacts list --kind checkpoint[/cyan]
    """
    from longcat.cli.render import print_artifacts
    from longcat.pipeline.artifact import KINDS
    from longcat.pipeline.errors import UsageError

    if kind is not None and kind not in KINDS:
        raise UsageError(f"no kind of artifact is called {kind!r}", hint=f"kinds: {', '.join(KINDS)}")
    store = settings_of(ctx).open_store()
    print_artifacts(store, [a for a in store.artifacts() if kind in (None, a.kind)], as_json=as_json)


@app.command()
def show(ctx: typer.Context, reference: Reference, as_json: Json = False) -> None:
    """The manifest of one artifact: inputs, configuration, files, counts, metrics.

    Example: [cyan]longcat artifacts show filtered@2[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.render import artifact_json, print_manifest

    store = settings_of(ctx).open_store()
    artifact = store.resolve(reference)
    if as_json:
        print_json(artifact_json(store, artifact))
    else:
        print_manifest(store, artifact)


@app.command()
def lineage(
    ctx: typer.Context,
    reference: Reference,
    counts: Annotated[
        bool, typer.Option("--counts", help="A table instead: documents in, out and dropped at each stage.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What an artifact was made from, down to the crawl, as a tree.

    Examples:

      [cyan]longcat artifacts lineage extended[/cyan]

      [cyan]longcat artifacts lineage tokens --counts[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.render import print_flows, print_lineage
    from longcat.pipeline.lineage import ancestry, document_flows
    from longcat.pipeline.lineage import lineage as trace

    store = settings_of(ctx).open_store()
    artifact = store.resolve(reference)
    if counts:
        print_flows(store, document_flows(ancestry(store, artifact)), as_json=as_json)
        return
    node = trace(store, artifact)
    if as_json:
        print_json(node)
    else:
        print_lineage(node)


@app.command()
def diff(ctx: typer.Context, before: Reference, after: Reference, as_json: Json = False) -> None:
    """What differs between two artifacts: configuration, inputs, counts, metrics, files.

    Example: [cyan]longcat artifacts diff filtered@1 filtered@2[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.render import print_difference
    from longcat.pipeline.lineage import difference

    store = settings_of(ctx).open_store()
    changes = difference(store.resolve(before), store.resolve(after))
    if as_json:
        print_json(changes)
    else:
        print_difference(changes)


@app.command()
def verify(
    ctx: typer.Context,
    references: Annotated[
        list[str] | None, typer.Argument(metavar="[REF]...", help="Artifacts to check; all when none is given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare every file with its manifest; ends with exit code 5 if one differs.

    Example: [cyan]longcat artifacts verify[/cyan]
    """
    from longcat.cli.render import print_verification
    from longcat.pipeline.errors import IntegrityError

    store = settings_of(ctx).open_store()
    chosen = [store.resolve(reference) for reference in references] if references else list(store.artifacts())
    found = [(artifact, artifact.damage()) for artifact in chosen]
    print_verification(store, found, as_json=as_json)
    damaged = [artifact for artifact, problems in found if problems]
    if damaged:
        raise IntegrityError(
            f"{len(damaged)} of {len(found)} artifacts are damaged",
            hint="`longcat artifacts gc --damaged --yes` removes them, the next run makes them again",
        )


@app.command()
def gc(
    ctx: typer.Context,
    keep: Annotated[int | None, typer.Option("--keep", min=1, help="Keep this many versions of each name.")] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Only artifacts whose files fail their checks.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it the list is only shown.")] = False,
    as_json: Json = False,
) -> None:
    """Artifacts that no name leads to, and progress of runs that ended; shown first, deleted with --yes.

    Example: [cyan]longcat artifacts gc --keep 1[/cyan]
    """
    import shutil

    from longcat.cli.render import print_garbage
    from longcat.pipeline.lineage import garbage

    store = settings_of(ctx).open_store()
    found = garbage(store, keep_versions=keep, damaged=damaged)
    if yes:
        for item in found:
            if item.artifact:
                store.remove(item.artifact)
            else:
                shutil.rmtree(item.path)
    print_garbage(found, deleted=yes, as_json=as_json)
