"""Removal by the user: a version or all versions of a name, or one artifact."""

from __future__ import annotations

from dataclasses import dataclass, field

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import BusyError, UsageError
from longcat.pipeline.lock import locked
from longcat.pipeline.pins import pinned
from longcat.pipeline.refs import Named
from longcat.pipeline.store import Store, utc_now


@dataclass
class Removed:
    """Removed versions, artifacts moved into quarantine with them, and artifacts kept with the reason."""

    names: list[Named] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    kept: list[tuple[Artifact, str]] = field(default_factory=list)


def remove(store: Store, reference: str) -> Removed:
    """Remove a name (`name`), one of its versions (`name@2`) or an unnamed artifact (an id).

    An artifact goes into quarantine with its last name, unless something depends on it.

    Raises:
        MissingArtifactError: the reference matches nothing.
        UsageError: an id that a name or a pin references, or that another artifact was made from.
        BusyError: an id that a live process uses.
    """
    named = store.refs.lookup(reference)
    done = Removed()
    if named is None:
        with store.live.collecting():
            artifact = store.resolve(reference)
            if (reason := _stands_under(store, artifact)) is not None:
                raise UsageError(f"{artifact.kind}/{artifact.id} stays: {reason}", hint="remove that first")
            if artifact.id in store.live.read():
                raise BusyError("in use by a live process", where=artifact.id, hint="wait for it, or end it")
            _put_aside(store, artifact, done)
        return done
    one = "@" in reference
    done.names = store.refs.take_away(named.name, lambda item: not one or item.number == named.number, utc_now())
    with store.live.collecting():
        live = store.live.read()
        for identifier, kind in {item.version.id: item.version.kind for item in done.names}.items():
            found = store.get(kind, identifier)
            if found is None:
                continue
            reason = "in use by a live process" if identifier in live else _stands_under(store, found)
            if reason is None:
                _put_aside(store, found, done)
            else:
                done.kept.append((found, reason))
    return done


def _put_aside(store: Store, artifact: Artifact, done: Removed) -> None:
    with locked(store.lock_path(artifact.id), wait=False):
        store.quarantine(artifact.path, artifact.kind, artifact.id, "removed by the user")
    done.artifacts.append(artifact)


def _stands_under(store: Store, artifact: Artifact) -> str | None:
    """What depends on an artifact: a name, a pin, or another artifact; None if nothing does."""
    names = store.names_by_id()
    if artifact.id in names:
        return f"it is {', '.join(names[artifact.id])}"
    if artifact.id in pinned(store):
        return "it is pinned"
    artifacts, broken = store.scan()
    made_from = {item.id: item.manifest.ancestors() for item in artifacts}
    made_from |= {item.path.name: store.inputs_of(item.path, item.path.name) or [] for item in broken}
    for user, inputs in made_from.items():
        if artifact.id in {reference.id for reference in inputs}:
            return f"{names.get(user, [user])[0]} was made from it"
    return None
