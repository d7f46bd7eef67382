"""`longcat artifacts ...`: inspect and verify the store, and remove unused artifacts."""

from __future__ import annotations

from typing import Annotated

import typer

from longcat.cli import artifacts_change, artifacts_transfer, completion
from longcat.cli.artifacts_common import Json, Reference
from longcat.cli.settings import settings_of

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, trace, compare, verify, copy and remove artifacts.\n\n"
    "Example: [cyan]longcat artifacts lineage extended[/cyan]",
)


def register(root: typer.Typer) -> None:
    """Register the command group."""
    artifacts_change.register(app)
    artifacts_transfer.register(app)
    root.add_typer(app, name="artifacts")


@app.command("list")
def list_artifacts(
    ctx: typer.Context,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="Only artifacts of this kind, e.g. checkpoint.",
            autocompletion=completion.kinds_of_artifacts,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List all artifacts of the store, oldest first.

    Example: [cyan]longcat artifacts list --kind checkpoint[/cyan]
    """
    from longcat.cli.render import print_artifacts
    from longcat.cli.store_report import warn_of_broken
    from longcat.pipeline.artifact import KINDS
    from longcat.pipeline.errors import UsageError

    if kind is not None and kind not in KINDS:
        raise UsageError(f"unknown artifact kind {kind!r}", hint=f"kinds: {', '.join(KINDS)}")
    store = settings_of(ctx).open_store().require()
    artifacts, broken = store.scan()
    print_artifacts(store, [a for a in artifacts if kind in (None, a.kind)], as_json=as_json)
    warn_of_broken(broken)


@app.command()
def show(ctx: typer.Context, reference: Reference, as_json: Json = False) -> None:
    """Show the manifest of an artifact: inputs, configuration, files, counts, metrics.

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
def path(ctx: typer.Context, reference: Reference) -> None:
    """Print the path of an artifact, for scripts.

    Example: [cyan]ls $(longcat artifacts path tokens)[/cyan]
    """
    from longcat.cli.terminal import write_text

    write_text(f"{settings_of(ctx).open_store().resolve(reference).path}\n")


@app.command()
def lineage(
    ctx: typer.Context,
    reference: Reference,
    counts: Annotated[
        bool, typer.Option("--counts", help="Print a table of documents in, out and dropped per stage instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what an artifact was made from, down to the crawl, as a tree.

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
    """Compare two artifacts: configuration, inputs, counts, metrics, files.

    Example: [cyan]longcat artifacts diff filtered@1 filtered@2[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.difference_report import print_difference
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
        list[str] | None,
        typer.Argument(
            metavar="[REF]...",
            help="Artifacts to verify (default: the whole store).",
            autocompletion=completion.references(),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify every file against its manifest, every manifest against its id, and every name against its artifact.

    Exits with code 5 if something is damaged or missing.

    Example: [cyan]longcat artifacts verify[/cyan]
    """
    from longcat.cli.store_report import print_checks
    from longcat.pipeline.errors import IntegrityError
    from longcat.pipeline.fsck import Finding, check_artifacts, check_structure

    store = settings_of(ctx).open_store().require()
    findings: list[Finding] = [] if references else check_structure(store)
    artifacts = [store.resolve(reference) for reference in references] if references else store.artifacts()
    checked = list(check_artifacts(artifacts))
    print_checks(store, checked, findings, as_json=as_json)
    damaged = sum(bool(item.problems) for item in checked)
    damage = [finding for finding in findings if not finding.note]
    if damaged or damage:
        what = [f"{damaged} of {len(checked)} artifacts are damaged"] if damaged else []
        what += [f"{len(damage)} other problems, the first: {damage[0].where}: {damage[0].what}"] if damage else []
        raise IntegrityError(
            "; ".join(what),
            where=str(store.root),
            hint="`longcat artifacts fsck --repair` repairs what it can; `gc --damaged --yes` moves damaged artifacts "
            "aside, and the next run makes them again",
        )


@app.command()
def fsck(
    ctx: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
    as_json: Json = False,
) -> None:
    """Check the whole store as `verify` does and, with --repair, repair it.

    Restores manifests from their second copies, names from the run logs, and artifacts that are still needed from
    quarantine. Foreign files in an artifact are moved aside. No artifact is deleted.

    Example: [cyan]longcat artifacts fsck --repair[/cyan]
    """
    from longcat.cli.store_report import print_repairs
    from longcat.pipeline.fsck import check_artifacts, check_structure, repairs_of
    from longcat.pipeline.fsck import repair as mend

    if not repair:
        verify(ctx, None, as_json)
        return
    store = settings_of(ctx).open_store().require()
    # Twice: a restored manifest may name an input that is missing.
    done = mend(check_structure(store))
    done += mend(f for item in check_artifacts(store.artifacts()) if item.problems for f in repairs_of(store, item))
    done += mend(check_structure(store)) if done else []
    print_repairs(done, as_json=as_json)
    verify(ctx, None, False) if not as_json else None
