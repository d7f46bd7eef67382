"""`longcat artifacts gc|restore|remove|rename|pin|unpin`: commands that change which artifacts a store keeps."""

from __future__ import annotations

from typing import Annotated

import typer

from longcat.cli import completion
from longcat.cli.artifacts_common import Json, Reference
from longcat.cli.settings import settings_of


def register(app: typer.Typer) -> None:
    """Register the commands in the group."""
    for command in (gc, restore, remove, rename, pin, unpin):
        app.command()(command)


def gc(
    ctx: typer.Context,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Keep only the newest N versions of each name.")
    ] = None,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Collect only artifacts whose files fail verification.")
    ] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also collect the progress of unfinished runs.")
    ] = False,
    now: Annotated[bool, typer.Option("--now", help="Delete permanently, including everything in quarantine.")] = False,
    grace: Annotated[
        float, typer.Option("--grace", min=0, metavar="DAYS", help="Days for which collected items can be restored.")
    ] = 7,
    yes: Annotated[bool, typer.Option("--yes", help="Apply; without it the list is only shown.")] = False,
    as_json: Json = False,
) -> None:
    """List artifacts that no name and no pin references; with --yes, move them into quarantine.

    Artifacts that a live process makes, reads or has just published are kept. Unfinished runs are listed and kept
    unless --unfinished is given. `artifacts restore` restores from quarantine; a later `gc --yes` permanently deletes
    what has been there for --grace days.

    Examples:

      [cyan]longcat artifacts gc --keep 1[/cyan]

      [cyan]longcat artifacts gc --yes --now[/cyan]

      [cyan]longcat artifacts gc --damaged --yes[/cyan]
    """
    from longcat.cli.store_report import print_collection
    from longcat.pipeline.errors import IntegrityError
    from longcat.pipeline.gc import Options, collect, survey

    store = settings_of(ctx).open_store().require()
    options = Options(keep, damaged, unfinished, now, grace)
    found = collect(store, options) if yes else survey(store, options)
    print_collection(found, done=yes, now=now, as_json=as_json)
    if found.problems:
        raise IntegrityError(
            found.problems[0], where=str(store.root), hint="`longcat artifacts fsck` shows what is wrong"
        )


def restore(
    ctx: typer.Context,
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Ids or id prefixes; without any, the quarantine is listed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Restore artifacts or progress from quarantine; without an id, list its contents.

    Example: [cyan]longcat artifacts restore 3f0c91[/cyan]
    """
    from longcat.cli.console import out, print_json
    from longcat.cli.store_report import print_quarantine
    from longcat.pipeline.errors import MissingArtifactError
    from longcat.pipeline.lock import locked

    store = settings_of(ctx).open_store().require()
    items = store.trash.entries()
    if not references:
        print_quarantine(items, as_json=as_json)
        return
    restored = []
    for reference in references:
        chosen = [item for item in items if item.entry.id.startswith(reference)]
        if not chosen or len({item.entry.id for item in chosen}) > 1:
            problem = "nothing" if not chosen else "more than one entry"
            raise MissingArtifactError(
                f"{problem} in quarantine matches {reference!r}", hint="see `longcat artifacts restore`"
            )
        item = chosen[-1]
        with locked(store.lock_path(item.entry.id), wait=False):
            restored.append(str(store.trash.restore(item)))
    if as_json:
        print_json({"restored": restored})
    else:
        for line in restored:
            out().print(line)


def remove(
    ctx: typer.Context,
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="REF...", help="A name, name@version, or an id.", autocompletion=completion.references()
        ),
    ],
    as_json: Json = False,
) -> None:
    """Remove names; an artifact is removed with its last name unless another artifact was made from it.

    A name means all its versions. Removed artifacts go into quarantine; `artifacts restore` restores them.

    Examples:

      [cyan]longcat artifacts remove filtered@1[/cyan]

      [cyan]longcat artifacts remove filtered[/cyan]
    """
    from longcat.cli.store_report import print_removed
    from longcat.pipeline.removal import remove as take_away

    store = settings_of(ctx).open_store().require()
    for reference in references:
        print_removed(store, take_away(store, reference), as_json=as_json)


def rename(
    ctx: typer.Context,
    old: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Current name.", autocompletion=completion.references()),
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="New name.")],
) -> None:
    """Rename all versions of a name.

    Example: [cyan]longcat artifacts rename base first-base[/cyan]
    """
    settings_of(ctx).open_store().require().refs.rename(old, new)


def pin(
    ctx: typer.Context,
    reference: Reference,
    why: Annotated[str, typer.Option("--why", help="Reason for keeping it.")] = "",
) -> None:
    """Keep an artifact and its inputs, whether or not a name references it.

    Example: [cyan]longcat artifacts pin 3f0c91 --why "the run of the report"[/cyan]
    """
    from longcat.cli.console import say
    from longcat.pipeline.pins import pin as keep

    store = settings_of(ctx).open_store().require()
    artifact = store.resolve(reference)
    keep(store, artifact, why)
    say(f"{artifact.kind}/{artifact.id} is pinned")


def unpin(ctx: typer.Context, reference: Reference) -> None:
    """Remove a pin.

    Example: [cyan]longcat artifacts unpin 3f0c91[/cyan]
    """
    from longcat.pipeline.errors import MissingArtifactError
    from longcat.pipeline.pins import unpin as release

    store = settings_of(ctx).open_store().require()
    artifact = store.resolve(reference)
    if not release(store, artifact.id):
        raise MissingArtifactError(f"{artifact.kind}/{artifact.id} is not pinned")
