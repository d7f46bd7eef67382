"""Garbage collection of unreferenced artifacts; decision and deletion happen under one lock.

Artifacts reachable from a root are kept. Roots are versions of names, pins, ids announced by live processes, inputs of
unfinished runs, and inputs of damaged artifacts in quarantine that may be made again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from longcat.pipeline.artifact import ID_PATTERN, KINDS, Artifact, InputRef
from longcat.pipeline.errors import BusyError, LongcatError, NewerArtifactError
from longcat.pipeline.files import folder_bytes, is_temporary, walk
from longcat.pipeline.lock import locked
from longcat.pipeline.pins import pinned
from longcat.pipeline.store import Broken, Store
from longcat.pipeline.trash import Entry
from longcat.pipeline.unfinished import Unfinished, unfinished_runs

GRACE_DAYS = 7.0
# Longer than any write of a small file takes.
WRITE_SECONDS = 3600


@dataclass(frozen=True)
class Options:
    """What to collect.

    `keep_versions`: only the newest N versions of each name are roots. `damaged`: only artifacts that do not match
    their manifest. `unfinished`: also the progress of runs that ended before their artifact was made. `now`: delete
    permanently instead of moving into quarantine, and empty the quarantine. `grace_days`: how long entries stay in
    quarantine.
    """

    keep_versions: int | None = None
    damaged: bool = False
    unfinished: bool = False
    now: bool = False
    grace_days: float = GRACE_DAYS


@dataclass(frozen=True)
class Garbage:
    """A candidate for collection: path, reason, size in bytes; `kept` says why it was kept after all."""

    path: Path
    reason: str
    size: int
    what: str  # artifact, progress, quarantine or leftover
    id: str = ""
    kind: str | None = None
    damaged: bool = False
    kept: str | None = None


@dataclass
class Survey:
    """Result of `gc`: candidates, unfinished runs that are kept, and what could not be decided."""

    garbage: list[Garbage] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def survey(store: Store, options: Options) -> Survey:
    """Dry run of `collect`, without locks."""
    artifacts, broken = store.scan()
    if options.damaged:
        return Survey(_damaged(artifacts, broken), [], [str(b.error) for b in broken if _is_newer(b)])
    return _judge(store, options, artifacts, broken, store.live.read())


def collect(store: Store, options: Options) -> Survey:
    """Decide and collect; artifacts and progress go into quarantine unless `options.now`.

    Artifacts that a live process makes, reads or has just published are kept: they are announced under the same lock.
    """
    suspects = {item.path for item in survey(store, options).garbage} if options.damaged else None
    with store.live.collecting():
        artifacts, broken = store.scan()
        live = store.live.read(forget_dead=True)
        if suspects is None:
            found = _judge(store, options, artifacts, broken, live)
        else:  # hashing is slow, so it was done before locking; only its findings are checked again
            again = [artifact for artifact in artifacts if artifact.path in suspects]
            found = Survey(_damaged(again, [item for item in broken if item.path in suspects]))
        found.garbage = [_take(store, item, options, live) for item in found.garbage]
    # Permanently, and outside the lock: nothing can reference these any more.
    for item in [item for item in found.garbage if item.what in ("leftover", "quarantine") and item.kept is None]:
        _purge(store, item, found.problems)
    if options.now:
        for path in store.trash.leftovers():
            _purge(store, Garbage(path, "", 0, "leftover"), found.problems)
    return found


def _purge(store: Store, item: Garbage, problems: list[str]) -> None:
    try:
        store.trash.purge(item.path)
    except OSError as error:
        problems.append(f"{error.filename or item.path}: {error.strerror}")


def _take(store: Store, item: Garbage, options: Options, live: set[str]) -> Garbage:
    """Move one item aside under its own lock, or return why not."""
    if item.what in ("leftover", "quarantine"):
        return item
    if item.id in live:
        return replace(item, kept="in use by a live process")
    try:
        with locked(store.lock_path(item.id), wait=False):
            _move(store, item, options)
    except BusyError as error:
        return replace(item, kept=error.what)
    except LongcatError as error:
        return replace(item, kept=f"{error.what} ({error.hint})" if error.hint else error.what)
    except OSError as error:
        return replace(item, kept=f"{error.filename or item.path}: {error.strerror}")
    return item


def _move(store: Store, item: Garbage, options: Options) -> None:
    if options.now and item.what == "artifact":
        store.discard(store.staging(item.id))
    if options.now:
        store.trash.purge(item.path)
    elif item.what == "artifact":
        store.quarantine(item.path, item.kind or item.path.parent.name, item.id, item.reason, damaged=item.damaged)
    else:
        place = str(item.path.relative_to(store.root))
        entry = Entry(what="progress", id=item.id, reason=item.reason, removed=time.time(), path=place)
        store.trash.put(item.path, entry)


def _is_newer(item: Broken) -> bool:
    return isinstance(item.error, NewerArtifactError)


def _damaged(artifacts: list[Artifact], broken: list[Broken]) -> list[Garbage]:
    found = [
        Garbage(a.path, f"damaged: {problems[0]}", a.manifest.total_bytes, "artifact", a.id, a.kind, damaged=True)
        for a in artifacts
        if (problems := a.damage())
    ]
    for item in broken:
        if not _is_newer(item):
            folder = item.path
            found.append(Garbage(folder, item.error.what, folder_bytes(folder), "artifact", folder.name, damaged=True))
    return found


def _judge(store: Store, options: Options, artifacts: list[Artifact], broken: list[Broken], live: set[str]) -> Survey:
    found = Survey(problems=[str(error) for error in store.refs.unreadable().values()])
    found.problems += [str(item.error) for item in broken]
    runs = unfinished_runs(store)
    dropped = [run for run in runs if options.unfinished or run.leftover]
    found.unfinished = [run for run in runs if run not in dropped]
    roots = Roots(store, options, found, live)
    made_from: dict[str, list[InputRef] | None] = {a.id: a.manifest.ancestors() for a in artifacts}
    made_from |= {item.path.name: store.inputs_of(item.path, item.path.name) for item in broken}
    unknown = roots.unknown or any(inputs is None for inputs in made_from.values())
    if unknown:
        found.problems.append("no artifact is collected while dependencies cannot be determined")
    else:
        # Unreadable artifacts are not collected, so their inputs are not either.
        kept = reachable(roots.ids | {item.path.name for item in broken}, made_from)
        found.garbage += [
            Garbage(a.path, "no name references it", a.manifest.total_bytes, "artifact", a.id, a.kind)
            for a in artifacts
            if a.id not in kept
        ]
    found.garbage += [Garbage(r.folder, r.reason, r.size, "progress", r.id) for r in dropped if not r.active]
    grace = 0.0 if options.now else options.grace_days
    found.garbage += [
        Garbage(item.folder, f"in quarantine: {item.entry.reason}", folder_bytes(item.folder), "quarantine")
        for item in store.trash.expired(grace, time.time())
    ]
    found.garbage += [
        Garbage(path, "left by an interrupted deletion", folder_bytes(path), "leftover") for path in _leftovers(store)
    ]
    return found


class Roots:
    """Ids of the roots; `unknown` if some cannot be determined."""

    def __init__(self, store: Store, options: Options, found: Survey, live: set[str]) -> None:
        self.ids: set[str] = set(pinned(store))
        self.unknown = bool(store.refs.unreadable())
        versions: dict[str, list[str]] = {}
        for named in store.refs.every():
            versions.setdefault(named.name, []).append(named.version.id)
        for ids in versions.values():
            self.ids.update(ids[-options.keep_versions :] if options.keep_versions else ids)
        self.ids |= live
        for run in found.unfinished:
            self.ids.update(run.inputs)
        for item in store.trash.entries():
            if item.entry.damaged and item.entry.inputs is None:
                self.unknown = True
            elif item.entry.damaged and not options.now:
                self.ids.update(reference.id for reference in item.entry.inputs or ())


def reachable(roots: set[str], made_from: Mapping[str, list[InputRef] | None]) -> set[str]:
    """Roots and their known ancestors."""
    waiting, kept = list(roots), set()
    while waiting:
        identifier = waiting.pop()
        if identifier not in kept:
            kept.add(identifier)
            waiting.extend(reference.id for reference in made_from.get(identifier) or ())
    return kept


def _torn_writes(store: Store) -> Iterator[Path]:
    """Old temporary files left by kills while a name, a pin or a manifest copy was written."""
    small = (path for folder in ("refs", "pins", ".manifests", ".shallow") for path in walk(store.root / folder))
    probes = (path for kind in KINDS for path in (store.root / kind).glob(".probe-*"))
    for path in (*filter(is_temporary, small), *probes):
        with suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > WRITE_SECONDS:
                yield path


def _leftovers(store: Store) -> list[Path]:
    """Remains of interrupted deletions and writes."""
    staging = store.root / ".staging"
    strays = [] if not staging.is_dir() else sorted(staging.iterdir())
    known = ("locks", "live")
    return [*store.trash.leftovers(), *_torn_writes(store)] + [
        path
        for path in strays
        if path.name not in known and (path.is_symlink() or not path.is_dir() or not ID_PATTERN.fullmatch(path.name))
    ]
