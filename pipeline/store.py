"""The store: where artifacts lie, how a reference finds one, and how a finished one is published."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from longcat.pipeline.artifact import ID_LENGTH, KINDS, MANIFEST_NAME, Artifact, FileEntry, Manifest, load_artifact
from longcat.pipeline.errors import IntegrityError, MissingArtifactError
from longcat.pipeline.files import atomic_write, fsync_file, fsync_folder, is_temporary, sha256_file
from longcat.pipeline.lock import is_locked, locked
from longcat.pipeline.refs import Named, Refs

MIN_PREFIX = 4
ID_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},{ID_LENGTH}}}")


def utc_now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Staging:
    """Where an artifact in the making lies: `output` will be published, `work` is resumable scratch."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def work(self) -> Path:
        return self.folder / "work"


class Store:
    """A folder of artifacts, their names and the work in progress.

    Every artifact is complete or absent: it is made in `.staging/<id>/` and appears by one rename.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.refs = Refs(self.root / "refs")

    def folder(self, kind: str, identifier: str) -> Path:
        return self.root / kind / identifier

    def log_path(self, identifier: str) -> Path:
        """The run log of an artifact: JSON lines of what depends on the clock."""
        return self.root / "logs" / f"{identifier}.jsonl"

    # Reading

    def get(self, kind: str, identifier: str) -> Artifact | None:
        """The artifact of that kind and id, or None.

        Raises:
            IntegrityError: it is there and its manifest cannot be read.
        """
        try:
            return load_artifact(self.folder(kind, identifier))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def artifacts(self) -> Iterator[Artifact]:
        """Every complete artifact, oldest first."""
        found = [
            artifact
            for kind in KINDS
            for folder in sorted((self.root / kind).glob("*"))
            if (artifact := self.get(kind, folder.name))
        ]
        yield from sorted(found, key=lambda artifact: (artifact.manifest.started, artifact.id))

    def resolve(self, reference: str) -> Artifact:
        """The artifact meant by a name, `name@version`, an id prefix of at least four digits, or a folder.

        Raises:
            MissingArtifactError: nothing or more than one artifact is meant.
        """
        named = self.refs.lookup(reference)
        if named is not None:
            return self._of_version(named, reference)
        if ID_PREFIX.fullmatch(reference):
            found = self._by_prefix(reference)
            if len(found) > 1:
                names = ", ".join(f"{path.parent.name}/{path.name}" for path in found)
                raise MissingArtifactError(f"{reference!r} is the start of several ids: {names}")
            if found:
                return load_artifact(found[0])
        folder = Path(reference).expanduser()
        if (folder / MANIFEST_NAME).is_file():
            return load_artifact(folder.absolute())
        known = ", ".join(self.refs.names()) or "none yet"
        raise MissingArtifactError(
            f"no artifact {reference!r} in {self.root}", hint=f"known names: {known}; see `longcat artifacts list`"
        )

    def _of_version(self, named: Named, reference: str) -> Artifact:
        artifact = self.get(named.version.kind, named.version.id)
        if artifact is None:
            raise MissingArtifactError(
                f"{named.name}@{named.number} was {named.version.kind}/{named.version.id}, which is gone",
                where=reference,
                hint="run the stage again, or name another version",
            )
        return artifact

    def _by_prefix(self, prefix: str) -> list[Path]:
        candidates = (path for kind in KINDS for path in sorted((self.root / kind).glob(f"{prefix}*")))
        return [path for path in candidates if (path / MANIFEST_NAME).is_file()]

    def names_of(self, identifier: str) -> list[str]:
        """`name@number` of every version that stands for an id."""
        return [f"{named.name}@{named.number}" for named in self.refs.every() if named.version.id == identifier]

    # Making

    def staging(self, identifier: str) -> Staging:
        return Staging(self.root / ".staging" / identifier)

    def lock_path(self, identifier: str) -> Path:
        return self.root / ".staging" / "locks" / identifier

    def in_progress(self, identifier: str) -> bool:
        """Whether some process makes this artifact at this moment."""
        return is_locked(self.lock_path(identifier))

    @contextmanager
    def making(
        self, identifier: str, *, wait: bool = True, on_wait: Callable[[str], None] | None = None
    ) -> Iterator[Staging]:
        """Hold the right to make `identifier`; progress of an earlier, killed run is still in the staging folder.

        Raises:
            BusyError: another process holds it and `wait` is false.
        """
        with locked(self.lock_path(identifier), wait=wait, on_wait=on_wait):
            staging = self.staging(identifier)
            staging.output.mkdir(parents=True, exist_ok=True)
            staging.work.mkdir(parents=True, exist_ok=True)
            yield staging

    def seal(self, staging: Staging) -> list[FileEntry]:
        """Make every file of the output durable and return their entries, sorted by path.

        Raises:
            IntegrityError: something other than a plain file or folder lies in the output.
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
        """Write the manifest last, then move the whole folder into place by one rename."""
        atomic_write(staging.output / MANIFEST_NAME, manifest.to_json())
        target = self.folder(manifest.kind, manifest.id)
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.output.rename(target)
        fsync_folder(target.parent)
        self.discard(staging)
        return Artifact(target, manifest)

    def discard(self, staging: Staging) -> None:
        """Drop the progress of an artifact."""
        shutil.rmtree(staging.folder, ignore_errors=True)

    def remove(self, artifact: Artifact) -> None:
        """Delete an artifact: it leaves its place by one rename before its files go."""
        grave = self.root / ".staging" / f"{artifact.id}.removed"
        grave.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(grave, ignore_errors=True)
        artifact.path.rename(grave)
        fsync_folder(artifact.path.parent)
        shutil.rmtree(grave, ignore_errors=True)
