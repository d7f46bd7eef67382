"""Artifacts: a folder of files with a manifest that says what they are and where they came from."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from longcat.pipeline.errors import IntegrityError, NewerArtifactError
from longcat.pipeline.files import canonical_json, pretty_json, read_json, sha256_file, walk

# 2: a manifest says which configuration keys stay out of the id, so that the id can be worked out from it again.
SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
ID_LENGTH = 16
ID_PATTERN = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")

Kind = Literal["crawl", "documents", "tokenizer", "tokens", "checkpoint", "evaluation", "report"]
KINDS: tuple[str, ...] = ("crawl", "documents", "tokenizer", "tokens", "checkpoint", "evaluation", "report")
KeyPath = tuple[str | int, ...]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def check_id(identifier: str) -> str:
    """Return `identifier` if it is an artifact's id.

    Raises:
        ValueError: it is not 16 lower-case hex digits.
    """
    if not ID_PATTERN.fullmatch(identifier):
        raise ValueError(f"{identifier[:60]!r} is not an id ({ID_LENGTH} hex digits)")
    return identifier


class FileEntry(_Record):
    """One file of an artifact: path relative to its folder, size in bytes, sha256 in hex."""

    path: str
    size: int = Field(ge=0)
    sha256: str

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path != "/".join(parts) or path.startswith("/") or {"..", "."} & set(parts) or "\0" in path:
            raise ValueError(f"the path {path[:100]!r} leads out of the artifact")
        return path


class InputRef(_Record):
    """An input artifact as the manifest remembers it; `name` is what the user called it, if anything."""

    id: str
    kind: Kind
    name: str | None = None

    @field_validator("id")
    @classmethod
    def _is_id(cls, identifier: str) -> str:
        return check_id(identifier)


class Manifest(_Record):
    """What an artifact is: see the field names. Written last, so its presence means the artifact is whole.

    `runtime` holds the paths of the configuration keys that say how the stage ran and are no part of the id; None
    where the manifest was written before it was kept.
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    kind: Kind
    stage: str
    revision: int
    inputs: dict[str, list[InputRef]]
    sources: dict[str, str]
    config: dict[str, Any]
    runtime: list[KeyPath] | None = None
    files: list[FileEntry]
    counts: dict[str, Any]
    metrics: dict[str, Any]
    performance: dict[str, Any]
    seed: int
    code_version: str
    environment: dict[str, str]
    started: str
    duration_seconds: float

    @field_validator("id")
    @classmethod
    def _is_id(cls, identifier: str) -> str:
        return check_id(identifier)

    @field_validator("files")
    @classmethod
    def _each_once(cls, files: list[FileEntry]) -> list[FileEntry]:
        paths = [entry.path for entry in files]
        twice = next((path for path in paths if paths.count(path) > 1), None) if len(set(paths)) < len(paths) else None
        if twice is not None:
            raise ValueError(f"the file {twice!r} stands twice")
        return files

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    def ancestors(self) -> list[InputRef]:
        """The inputs of all roles."""
        return [reference for references in self.inputs.values() for reference in references]

    def identity(self) -> str | None:
        """The id worked out from what the manifest says; None for manifests that do not say enough."""
        if self.runtime is None:
            return None
        config = without_keys(self.config, self.runtime)
        inputs = {role: [item.id for item in items] for role, items in self.inputs.items()}
        return artifact_id(self.stage, self.revision, config, inputs, self.sources)

    def to_json(self) -> bytes:
        return pretty_json(self.model_dump(exclude={"runtime"} if self.runtime is None else None))


def artifact_id(
    stage: str,
    revision: int,
    config: Mapping[str, Any],
    inputs: Mapping[str, list[str]],
    sources: Mapping[str, str],
) -> str:
    """First 16 hex digits of sha256 over what determines an artifact's bytes.

    `inputs` holds artifact ids by role, `sources` digests of what lies outside the store.
    """
    recipe = {"stage": stage, "revision": revision, "config": config, "inputs": inputs, "sources": sources}
    return hashlib.sha256(canonical_json(recipe)).hexdigest()[:ID_LENGTH]


def without_keys(values: Mapping[str, Any], paths: Sequence[KeyPath]) -> dict[str, Any]:
    """A copy of nested JSON values less the keys at `paths`."""
    heads = {path[0] for path in paths if len(path) == 1}
    kept = {key: value for key, value in values.items() if key not in heads}
    for key, value in kept.items():
        below = [path[1:] for path in paths if len(path) > 1 and path[0] == key]
        if below:
            kept[key] = _without(value, below)
    return kept


def _without(value: Any, paths: Sequence[KeyPath]) -> Any:
    if isinstance(value, Mapping):
        return without_keys(value, paths)
    if isinstance(value, list):
        return [_without(item, [path[1:] for path in paths if path[0] == at]) for at, item in enumerate(value)]
    return value


@dataclass(frozen=True)
class Artifact:
    """A complete artifact on disk."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def kind(self) -> str:
        return self.manifest.kind

    def file(self, name: str) -> Path:
        """Path of one file of the artifact.

        Raises:
            IntegrityError: the manifest names it no more or the file is gone.
        """
        path = self.path / name
        if not path.is_file():
            raise IntegrityError(f"the file {name} is missing", where=str(self.path), hint=_rebuild_hint(self.id))
        return path

    def damage(self) -> list[str]:
        """Compare the folder with the manifest and the id with both; one line a difference, empty when whole."""
        found = [message for entry in self.manifest.files if (message := self._damage_of(entry))]
        found += [f"{name}: {what}" for name, what in self.strangers()]
        identity = self.manifest.identity()
        if identity not in (None, self.id):
            found.append(f"{MANIFEST_NAME}: its stage, configuration and inputs have the id {identity}")
        return found

    def strangers(self) -> Iterator[tuple[str, str]]:
        """What lies in the folder and is neither a file of the manifest nor a plain folder: path and what it is."""
        known = {entry.path for entry in self.manifest.files} | {MANIFEST_NAME}
        for path in walk(self.path):
            name = path.relative_to(self.path).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                yield name, "a link, not a plain file"
            elif not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                yield name, "not a plain file"
            elif stat.S_ISREG(mode) and name not in known:
                yield name, "not in the manifest"

    def _damage_of(self, entry: FileEntry) -> str | None:
        size = self._plain_size(entry)
        if size is None:
            return f"{entry.path}: missing"
        if size != entry.size:
            return f"{entry.path}: {size} bytes, the manifest says {entry.size}"
        if sha256_file(self.path / entry.path) != entry.sha256:
            return f"{entry.path}: its sha256 is not the manifest's"
        return None

    def _plain_size(self, entry: FileEntry) -> int | None:
        """Size of a file of the manifest; None where it is missing, a link, or behind one."""
        path = self.path / entry.path
        behind = [parent for parent in path.parents if parent.is_relative_to(self.path) and parent != self.path]
        try:
            found = path.lstat()
        except OSError:
            return None
        linked = any(parent.is_symlink() for parent in behind)
        return found.st_size if stat.S_ISREG(found.st_mode) and not linked else None

    def missing_or_resized(self) -> list[str]:
        """The quick part of `damage`: files gone or of another size."""
        return [entry.path for entry in self.manifest.files if self._plain_size(entry) != entry.size]


def _rebuild_hint(identifier: str) -> str:
    return f"longcat artifacts verify {identifier}, then `longcat artifacts gc --damaged` and run again"


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest.

    Raises:
        FileNotFoundError: there is none.
        NewerArtifactError: a newer version of longcat wrote it.
        IntegrityError: it cannot be read.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("not a plain file")
        values = read_json(path, file_names=True)
        schema = values.get("schema_version", 1) if isinstance(values, dict) else 1
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise NewerArtifactError(
                f"made by a newer longcat (schema {schema}), this one knows {SCHEMA_VERSION}",
                where=str(path),
                hint="upgrade longcat; the artifact is neither used nor deleted",
            )
        return Manifest.model_validate(values)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        reason = f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
    except ValueError as error:
        reason = str(error).splitlines()[0]
    raise IntegrityError(
        f"the manifest cannot be read: {reason}",
        where=str(path),
        hint="`longcat artifacts fsck --repair` mends it, `artifacts gc --damaged --yes` moves the artifact aside",
    )


def load_artifact(folder: Path) -> Artifact:
    """Read the artifact at `folder`, which is called as its id.

    Raises:
        FileNotFoundError: no manifest is there.
        NewerArtifactError: a newer version of longcat wrote it.
        IntegrityError: the manifest cannot be read, or it is the manifest of another artifact.
    """
    path = folder / MANIFEST_NAME
    manifest = read_manifest(path)
    if manifest.id != folder.name:
        raise IntegrityError(
            f"the manifest is that of {manifest.kind}/{manifest.id}, the folder is called {folder.name}",
            where=str(path),
            hint=f"give the folder the name {manifest.id} again, or remove it",
        )
    return Artifact(folder, manifest)
