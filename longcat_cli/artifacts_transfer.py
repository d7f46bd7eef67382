"""`longcat artifacts copy|push|pull`: copy artifacts between stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longcat.cli.artifacts_common import Json, Reference
from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.store import Store

WithInputs = Annotated[bool, typer.Option("--with-inputs", help="Also transfer everything it was made from.")]
Name = Annotated[str | None, typer.Option("--name", help="Name in the target (default: the name given here, if any).")]


def register(app: typer.Typer) -> None:
    """Register the commands in the group."""
    for command in (copy, push, pull):
        app.command()(command)


def copy(
    ctx: typer.Context,
    reference: Reference,
    target: Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the target store.")],
    name: Name = None,
    with_inputs: WithInputs = False,
    as_json: Json = False,
) -> None:
    """Copy an artifact into a store in another folder and verify every byte.

    Example: [cyan]longcat artifacts copy tokens /shared/longcat-store[/cyan]
    """
    from longcat.pipeline.store import Store

    store = settings_of(ctx).open_store()
    _copy(ctx, store, Store(target), reference, name, with_inputs, as_json)


def push(
    ctx: typer.Context,
    reference: Reference,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A folder, or the URL of an object store.")],
    name: Name = None,
    with_inputs: WithInputs = False,
    as_json: Json = False,
) -> None:
    """Copy an artifact to another store: a folder, or an object store (`s3://`, `gs://`; install the extra s3 or gs).

    Example: [cyan]longcat artifacts push extended s3://bucket/store --with-inputs[/cyan]
    """
    from longcat.cli.console import make_progress
    from longcat.cli.store_report import print_moved
    from longcat.pipeline.store import Store
    from longcat.pipeline.transfer import RemoteStore, chosen, folder_of, total_bytes

    store = settings_of(ctx).open_store()
    folder = folder_of(target)
    if folder is not None:
        _copy(ctx, store, Store(folder), reference, name, with_inputs, as_json)
        return
    remote = RemoteStore.open(target)
    artifact = store.take(reference)
    artifacts = chosen(store, artifact, with_inputs=with_inputs)
    store.hold(item.id for item in artifacts)
    total = total_bytes(item.manifest for item in artifacts)
    with make_progress(quiet=settings_of(ctx).quiet).task("sending", total=total, unit="bytes") as bar:
        moved = [remote.send(item, bar) for item in artifacts]
    name = name or _typed_name(store, reference)
    if name is not None:
        remote.name(name, artifact.manifest)
    print_moved(moved, target, name, as_json=as_json)


def pull(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, or the URL of an object store.")],
    reference: Annotated[str, typer.Argument(metavar="REF", help="A name, name@version or an id there.")],
    name: Name = None,
    with_inputs: WithInputs = False,
    as_json: Json = False,
) -> None:
    """Fetch an artifact from another store and verify every byte.

    Example: [cyan]longcat artifacts pull s3://bucket/store extended[/cyan]
    """
    from longcat.cli.console import make_progress
    from longcat.cli.store_report import print_moved
    from longcat.pipeline.refs import NAME_PATTERN
    from longcat.pipeline.store import Store, utc_now
    from longcat.pipeline.transfer import RemoteStore, folder_of, total_bytes

    store = settings_of(ctx).open_store()
    folder = folder_of(source)
    if folder is not None:
        _copy(ctx, Store(folder).require(), store, reference, name, with_inputs, as_json)
        return
    remote = RemoteStore.open(source)
    manifest = remote.find(reference)
    manifests = remote.closure(manifest) if with_inputs else [manifest]
    with make_progress(quiet=settings_of(ctx).quiet).task(
        "fetching", total=total_bytes(manifests), unit="bytes"
    ) as bar:
        moved = [remote.fetch(item, store, bar) for item in manifests]
    typed = reference.partition("@")[0]
    name = name or (typed if NAME_PATTERN.fullmatch(typed) and typed != manifest.id else None)
    if name is not None:
        store.refs.publish(name, manifest.id, manifest.kind, utc_now())
    print_moved(moved, str(store.root), name, as_json=as_json)


def _copy(
    ctx: typer.Context,
    store: Store,
    other: Store,
    reference: str,
    name: str | None,
    with_inputs: bool,
    as_json: bool,
) -> None:
    from longcat.cli.console import make_progress
    from longcat.cli.store_report import print_moved
    from longcat.pipeline.refs import check_name
    from longcat.pipeline.store import utc_now
    from longcat.pipeline.transfer import chosen, copy_artifact, total_bytes

    artifact: Artifact = store.take(reference)
    name = name or _typed_name(store, reference)
    if name is not None:
        check_name(name)
    artifacts = chosen(store, artifact, with_inputs=with_inputs)
    store.hold(item.id for item in artifacts)
    total = total_bytes(item.manifest for item in artifacts)
    with make_progress(quiet=settings_of(ctx).quiet).task("copying", total=total, unit="bytes") as bar:
        moved = [copy_artifact(item, other, bar) for item in artifacts]
    if name is not None:
        other.refs.publish(name, artifact.id, artifact.kind, utc_now())
    print_moved(moved, str(other.root), name, as_json=as_json)


def _typed_name(store: Store, reference: str) -> str | None:
    """Name in a reference, without its version; None for an id or a folder."""
    named = store.refs.lookup(reference)
    return named.name if named is not None else None
