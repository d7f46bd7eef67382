"""The store: location, lookup and publication of artifacts."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from longcat.pipeline.artifact import (
    ID_LENGTH,
    ID_PATTERN,
    KINDS,
    MANIFEST_NAME,
    Artifact,
    FileEntry,
    InputRef,
    Manifest,
    load_artifact,
    read_manifest,
)
from longcat.pipeline.errors import IntegrityError, LongcatError, MissingArtifactError
from longcat.pipeline.files import (
    atomic_write,
    fsync_file,
    fsync_folder,
    is_temporary,
    pretty_json,
    read_json,
    sha256_file,
)
from longcat.pipeline.lock import is_locked, locked
from longcat.pipeline.refs import Named, Refs
from longcat.pipeline.roots import LiveRoots
from longcat.pipeline.trash import Entry, Trash, Trashed

MIN_PREFIX = 4
ID_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},{ID_LENGTH}}}")
RUN_FILE = "run.json"
# Entries that identify a store, even a nearly empty one.
OF_A_STORE = (*KINDS, "refs", "logs", ".staging", ".trash", ".manifests")


def utc_now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Staging:
    """Staging folder of an artifact: `output` will be published, `work` is resumable scratch."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def description(self) -> dict[str, Any]:
        """Data written by `describe`; empty if it cannot be read."""
        with suppress(FileNotFoundError, ValueError):
            found = read_json(self.folder / RUN_FILE, file_names=True)
            if isinstance(found, dict):
                return found
        return {}

    def describe(self, run: dict[str, Any]) -> None:
        """Record what is made here, for listings of unfinished runs."""
        atomic_write(self.folder / RUN_FILE, pretty_json(run))


@dataclass(frozen=True)
class Broken:
    """An artifact folder that cannot be read, and why."""

    path: Path
    error: IntegrityError


class Store:
    """A folder of artifacts, their names and the work in progress.

    Every artifact is complete or absent: it is made in `.staging/<id>/` and published by one rename.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.refs = Refs(self.root / "refs")
        self.trash = Trash(self.root)
        self.live = LiveRoots(self.root / ".staging")

    def folder(self, kind: str, identifier: str) -> Path:
        return self.root / kind / identifier

    def log_path(self, identifier: str) -> Path:
        """Path of an artifact's run log: JSON lines of values that depend on the clock."""
        return self.root / "logs" / f"{identifier}.jsonl"

    def spare_path(self, identifier: str) -> Path:
        """Path of the second copy of a manifest, which outlives the artifact."""
        return self.root / ".manifests" / f"{identifier}.json"

    # Reading

    def require(self) -> Store:
        """Return this store if it exists.

        Raises:
            MissingArtifactError: the folder does not exist, or is not a store.
        """
        hint = "a stage creates it, or name another with --store"
        if not self.root.is_dir():
            raise MissingArtifactError("there is no store here", where=str(self.root), hint=hint)
        if any(self.root.iterdir()) and not any((self.root / name).is_dir() for name in OF_A_STORE):
            raise MissingArtifactError("this folder is not a store", where=str(self.root), hint=hint)
        return self

    def get(self, kind: str, identifier: str) -> Artifact | None:
        """Artifact of that kind and id, or None.

        Raises:
            IntegrityError: its manifest cannot be read, or belongs to another artifact.
        """
        try:
            artifact = load_artifact(self.folder(kind, identifier))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if artifact.kind != kind:
            raise IntegrityError(f"a {artifact.kind} artifact is in the folder of {kind}", where=str(artifact.path))
        return artifact

    def scan(self) -> tuple[list[Artifact], list[Broken]]:
        """All readable artifacts, oldest first, and all artifact folders that cannot be read."""
        found, broken = [], []
        for folder in self.folders():
            try:
                artifact = self.get(folder.parent.name, folder.name)
            except IntegrityError as error:
                broken.append(Broken(folder, error))
                continue
            if artifact is not None:
                found.append(artifact)
            else:
                broken.append(Broken(folder, IntegrityError("the manifest is missing", where=str(folder))))
        return sorted(found, key=lambda artifact: (artifact.manifest.started, artifact.id)), broken

    def folders(self) -> Iterator[Path]:
        """Artifact folders, intact or not; entries with other names are skipped."""
        for kind in KINDS:
            paths = sorted((self.root / kind).glob("*"))
            yield from (path for path in paths if ID_PATTERN.fullmatch(path.name) and path.is_dir())

    def artifacts(self) -> list[Artifact]:
        """All readable artifacts, oldest first."""
        return self.scan()[0]

    def resolve(self, reference: str) -> Artifact:
        """Resolve a name, `name@version`, an id prefix of at least four digits, or a folder.

        Raises:
            MissingArtifactError: no artifact, or more than one, matches.
        """
        named = self.refs.lookup(reference)
        if named is not None:
            return self._of_version(named, reference)
        if ID_PREFIX.fullmatch(reference):
            found = self._by_prefix(reference)
            if len(found) > 1:
                names = ", ".join(f"{path.parent.name}/{path.name}" for path in found)
                raise MissingArtifactError(f"{reference!r} is a prefix of several ids: {names}")
            if found and (artifact := self.get(found[0].parent.name, found[0].name)) is not None:
                return artifact
        folder = Path(reference).expanduser().absolute()
        if (folder / MANIFEST_NAME).is_file():
            return load_artifact(folder)
        if ID_PREFIX.fullmatch(reference):
            aside = [item for item in self.trash.entries() if item.entry.id.startswith(reference)]
            if aside:
                raise MissingArtifactError(
                    f"{aside[-1].entry.id} is in quarantine ({aside[-1].entry.reason})",
                    where=reference,
                    hint=f"`longcat artifacts restore {reference}` restores it",
                )
        known = ", ".join(self.refs.names()) or "none yet"
        raise MissingArtifactError(
            f"no artifact {reference!r} in {self.root}", hint=f"known names: {known}; see `longcat artifacts list`"
        )

    def take(self, reference: str) -> Artifact:
        """Resolve a reference and protect the artifact from `gc` until this process ends."""
        artifact = self.resolve(reference)
        self.hold([artifact.id])
        if not artifact.path.is_dir():  # it was collected meanwhile
            return self.resolve(reference)
        return artifact

    def _of_version(self, named: Named, reference: str) -> Artifact:
        artifact = self.get(named.version.kind, named.version.id)
        if artifact is None:
            aside = self.trash.find(named.version.id, "artifact") is not None
            advice = f"`longcat artifacts restore {named.version.id}` restores it" if aside else "run the stage again"
            raise MissingArtifactError(
                f"{named.name}@{named.number} was {named.version.kind}/{named.version.id}, which is missing",
                where=reference,
                hint=f"{advice}, or name another version",
            )
        return artifact

    def _by_prefix(self, prefix: str) -> list[Path]:
        return [path for path in self.folders() if path.name.startswith(prefix) and (path / MANIFEST_NAME).exists()]

    def names_of(self, identifier: str) -> list[str]:
        """`name@number` of every version of an id."""
        return self.names_by_id().get(identifier, [])

    def names_by_id(self) -> dict[str, list[str]]:
        """`name@number` of every version of every name, by id."""
        found: dict[str, list[str]] = {}
        for named in self.refs.every():
            found.setdefault(named.version.id, []).append(f"{named.name}@{named.number}")
        return found

    def spare_manifest(self, identifier: str) -> Manifest | None:
        """Second copy of a manifest, if it is readable."""
        try:
            return read_manifest(self.spare_path(identifier))
        except (FileNotFoundError, IntegrityError):
            return None

    # Making

    def staging(self, identifier: str) -> Staging:
        return Staging(self.root / ".staging" / identifier)

    def lock_path(self, identifier: str) -> Path:
        return self.root / ".staging" / "locks" / identifier

    def in_progress(self, identifier: str) -> bool:
        """Whether a process is making this artifact."""
        return is_locked(self.lock_path(identifier))

    def hold(self, identifiers: Iterable[str]) -> None:
        """Protect artifacts and progress from `gc` until this process ends."""
        self.live.announce(identifiers)

    @contextmanager
    def making(
        self,
        identifier: str,
        *,
        kind: str | None = None,
        wait: bool = True,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[Staging]:
        """Lock `identifier` for making it; progress of an earlier, killed run is kept in the staging folder.

        With `kind`, first test whether the result can be moved into place.

        Raises:
            BusyError: another process holds the lock and `wait` is false.
            LongcatError: the result could not be moved into place.
        """
        with locked(self.lock_path(identifier), wait=wait, on_wait=on_wait):
            staging = self.staging(identifier)
            if not staging.folder.is_dir():
                self.take_back(identifier, "progress")
            staging.output.mkdir(parents=True, exist_ok=True)
            staging.work.mkdir(parents=True, exist_ok=True)
            if kind is not None:
                self._try_rename(staging, kind)
            yield staging

    def _try_rename(self, staging: Staging, kind: str) -> None:
        """Test before the work whether its result can be moved into place."""
        place = self.root / kind
        if not place.exists():  # it will be created beside .staging
            return
        probe, target = staging.folder / "probe", place / f".probe-{staging.folder.name}"
        probe.mkdir(exist_ok=True)  # the rename replaces an empty folder left by a kill
        try:
            probe.rename(target)
        except OSError as error:
            with suppress(OSError):
                probe.rmdir()
            raise LongcatError(
                f"artifacts are moved there from .staging, which fails: {error.strerror}",
                where=str(place),
                hint="the folders of a store must be on one disk; move or link the store as a whole",
            ) from None
        target.rmdir()

    def take_back(self, identifier: str, what: str) -> Trashed | None:
        """Restore an artifact or progress from quarantine; None if there is none. Call within its lock."""
        item = self.trash.find(identifier, what)
        if item is not None:
            self.trash.restore(item)
        return item

    def seal(self, staging: Staging) -> list[FileEntry]:
        """Make every file of the output durable and return their entries, sorted by path.

        Raises:
            IntegrityError: the output contains something other than plain files and folders.
        """
        entries = []
        for path in sorted(staging.output.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise IntegrityError("a stage may write plain files only", where=str(path))
            if path.is_dir():
                continue
            if is_temporary(path) or path == staging.output / MANIFEST_NAME:
                path.unlink()
                continue
            fsync_file(path)
            name = path.relative_to(staging.output).as_posix()
            entries.append(FileEntry(path=name, size=path.stat().st_size, sha256=sha256_file(path)))
        for folder in (path for path in staging.output.rglob("*") if path.is_dir()):
            fsync_folder(folder)
        return sorted(entries, key=lambda entry: entry.path)

    def publish(self, staging: Staging, manifest: Manifest) -> Artifact:
        """Write the manifest last, then publish the folder by one rename.

        A folder without a manifest in its place is moved aside.
        """
        data = manifest.to_json()
        atomic_write(self.spare_path(manifest.id), data)
        atomic_write(staging.output / MANIFEST_NAME, data)
        target = self.folder(manifest.kind, manifest.id)
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target) and not os.path.lexists(target / MANIFEST_NAME):
            self.quarantine(target, manifest.kind, manifest.id, "no manifest", damaged=True)
        staging.output.rename(target)
        fsync_folder(target.parent)
        self.discard(staging)
        return Artifact(target, manifest)

    # Deleting

    def discard(self, staging: Staging) -> None:
        """Delete the progress of an artifact; what cannot be deleted is left to `gc`."""
        with suppress(OSError):
            self.trash.purge(staging.folder)

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact and its progress immediately."""
        self.discard(self.staging(artifact.id))
        self.trash.purge(artifact.path)

    def quarantine(self, path: Path, kind: str, identifier: str, reason: str, *, damaged: bool = False) -> Trashed:
        """Move an artifact into quarantine and delete its progress.

        Raises:
            LongcatError: it is on another file system.
        """
        entry = Entry(
            what="artifact",
            kind=kind,
            id=identifier,
            reason=reason,
            removed=time.time(),
            path=str(path.relative_to(self.root)),
            inputs=self.inputs_of(path, identifier),
            damaged=damaged,
        )
        self.discard(self.staging(identifier))
        return self.trash.put(path, entry)

    def inputs_of(self, folder: Path, identifier: str) -> list[InputRef] | None:
        """Inputs of an artifact, from its manifest or the second copy; None if neither can be read."""
        with suppress(FileNotFoundError, IntegrityError):
            manifest = read_manifest(folder / MANIFEST_NAME)
            if manifest.id == identifier:
                return manifest.ancestors()
        spare = self.spare_manifest(identifier)
        return spare.ancestors() if spare is not None else None
