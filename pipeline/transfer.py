"""Copies artifacts between stores: a folder, or an object store through fsspec.

Received bytes are verified against the manifest's digests and published by one rename, like a stage's output. Object
stores have no rename: there the manifest is written last, and an artifact without a manifest does not exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from longcat.pipeline.artifact import KINDS, MANIFEST_NAME, Artifact, FileEntry, Manifest
from longcat.pipeline.errors import InputError, IntegrityError, MissingArtifactError, UsageError
from longcat.pipeline.files import atomic_path, pretty_json
from longcat.pipeline.lineage import ancestry
from longcat.pipeline.progress import Bar
from longcat.pipeline.refs import NAME_PATTERN
from longcat.pipeline.shallow import note_absent
from longcat.pipeline.store import Store, utc_now

CHUNK_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 256 << 20


@dataclass(frozen=True)
class Moved:
    """A transferred artifact: kind, id and size in bytes, and whether it existed already."""

    kind: str
    id: str
    size: int
    present: bool


def chosen(store: Store, artifact: Artifact, *, with_inputs: bool) -> list[Artifact]:
    """The artifact, preceded by its ancestors if `with_inputs`."""
    return ancestry(store, artifact) if with_inputs else [artifact]


def copy_artifact(artifact: Artifact, other: Store, bar: Bar) -> Moved:
    """Copy an artifact into another store on this machine.

    Raises:
        IntegrityError: a file does not match the manifest; nothing is published in the other store.
    """
    return receive(other, artifact.manifest, lambda entry: (artifact.path / entry.path).open("rb"), bar)


def receive(store: Store, manifest: Manifest, source: Callable[[FileEntry], BinaryIO], bar: Bar) -> Moved:
    """Make an artifact from transferred files; `source` opens one of them."""
    moved = Moved(manifest.kind, manifest.id, manifest.total_bytes, present=False)
    store.hold([manifest.id])
    with store.making(manifest.id, kind=manifest.kind) as staging:
        if store.get(manifest.kind, manifest.id) is not None:
            store.discard(staging)
            return Moved(manifest.kind, manifest.id, manifest.total_bytes, present=True)
        store.trash.purge(staging.output)  # progress of a run in this store
        staging.output.mkdir()
        for entry in manifest.files:
            target = staging.output / entry.path
            with source(entry) as stream, atomic_path(target) as aside, aside.open("wb") as out:
                _copy_stream(stream, out, entry, bar)
        store.seal(staging)
        store.publish(staging, manifest)
        note_absent(store, manifest.ancestors())
    return moved


class Writable(Protocol):
    """Destination of a copy."""

    def write(self, data: bytes, /) -> Any: ...


def _copy_stream(stream: BinaryIO, out: Writable, entry: FileEntry, bar: Bar) -> None:
    digest, size = hashlib.sha256(), 0
    while data := stream.read(CHUNK_BYTES):
        digest.update(data)
        size += len(data)
        if size > entry.size:
            break
        out.write(data)
        bar.advance(len(data))
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise IntegrityError("does not match the manifest; nothing was copied", where=entry.path)


@dataclass(frozen=True)
class RemoteStore:
    """Store in a bucket: same layout as on disk, through an fsspec file system."""

    files: Any
    root: str
    url: str

    @classmethod
    def open(cls, url: str) -> RemoteStore:
        """Open the store at a URL such as `s3://bucket/store`.

        Raises:
            UsageError: it is not a URL of an object store, or the package for it is missing.
        """
        import fsspec

        scheme = url.partition("://")[0]
        if "://" not in url or scheme in ("http", "https"):
            raise UsageError(
                f"{url!r} is neither a folder nor the URL of an object store", hint="e.g. s3://bucket/store"
            )
        try:
            files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UsageError(
                f"{scheme}:// cannot be used: {error}", hint=f"pip install 'longcat-cli[{scheme}]'"
            ) from None
        return cls(files, root.rstrip("/"), url)

    def _path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def _read_json(self, path: str) -> Any:
        try:
            with self.files.open(path, "rb") as stream:
                return json.loads(stream.read(MAX_MANIFEST_BYTES))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            raise IntegrityError("is not JSON", where=path) from None

    def manifest(self, kind: str, identifier: str) -> Manifest | None:
        """Manifest of an artifact; None if there is none.

        Raises:
            IntegrityError: it cannot be read.
        """
        path = self._path(kind, identifier, MANIFEST_NAME)
        values = self._read_json(path)
        if values is None:
            return None
        try:
            found = Manifest.model_validate(values)
        except ValueError as error:
            raise IntegrityError(f"the manifest cannot be read: {str(error).splitlines()[0]}", where=path) from None
        if (found.kind, found.id) != (kind, identifier):
            raise IntegrityError(f"the manifest belongs to {found.kind}/{found.id}", where=path)
        return found

    def find(self, reference: str) -> Manifest:
        """Manifest of a name, `name@version` or full id.

        Raises:
            MissingArtifactError: there is none.
        """
        name, _, wanted = reference.partition("@")
        if NAME_PATTERN.fullmatch(name):
            versions = (self._read_json(self._path("refs", f"{name}.json")) or {}).get("versions", [])
            standing = {str(at): version for at, version in enumerate(versions, 1) if not version.get("removed")}
            version = standing.get(wanted) if wanted not in ("", "latest") else next(reversed(standing.values()), None)
            if version is not None and (found := self.manifest(version["kind"], version["id"])) is not None:
                return found
        for kind in KINDS:
            if (found := self.manifest(kind, reference)) is not None:
                return found
        raise MissingArtifactError(f"no artifact {reference!r}", where=self.url, hint="expected a name or a full id")

    def send(self, artifact: Artifact, bar: Bar) -> Moved:
        """Upload an artifact, its manifest last."""
        manifest = artifact.manifest
        present = self.manifest(manifest.kind, manifest.id) is not None
        if not present:
            for entry in manifest.files:
                with (
                    (artifact.path / entry.path).open("rb") as stream,
                    self.files.open(self._path(manifest.kind, manifest.id, entry.path), "wb") as out,
                ):
                    _copy_stream(stream, out, entry, bar)
            self.files.pipe_file(self._path(manifest.kind, manifest.id, MANIFEST_NAME), manifest.to_json())
        return Moved(manifest.kind, manifest.id, manifest.total_bytes, present)

    def name(self, name: str, manifest: Manifest) -> None:
        """Make an artifact the newest version of a name there. Of concurrent writers the last one wins."""
        path = self._path("refs", f"{name}.json")
        content = self._read_json(path) or {"versions": []}
        if not content["versions"] or content["versions"][-1].get("id") != manifest.id:
            content["versions"].append({"id": manifest.id, "kind": manifest.kind, "created": utc_now()})
            self.files.pipe_file(path, pretty_json(content))

    def fetch(self, manifest: Manifest, store: Store, bar: Bar) -> Moved:
        """Download an artifact into a store."""

        def source(entry: FileEntry) -> BinaryIO:
            path = self._path(manifest.kind, manifest.id, entry.path)
            try:
                stream: BinaryIO = self.files.open(path, "rb")
            except FileNotFoundError:
                raise InputError("the file is missing", where=path) from None
            return stream

        return receive(store, manifest, source, bar)

    def closure(self, manifest: Manifest) -> list[Manifest]:
        """Existing ancestors of an artifact, then itself; each once."""
        found: dict[str, Manifest] = {}

        def visit(item: Manifest) -> None:
            for reference in item.ancestors():
                if reference.id not in found and (before := self.manifest(reference.kind, reference.id)) is not None:
                    visit(before)
            found[item.id] = item

        visit(manifest)
        return list(found.values())


def total_bytes(manifests: Iterable[Manifest]) -> int:
    return sum(manifest.total_bytes for manifest in manifests)


def folder_of(target: str) -> Path | None:
    """Folder of a target; None for a URL."""
    if target.startswith("file://"):
        return Path(target.removeprefix("file://"))
    return None if "://" in target else Path(target).expanduser()
