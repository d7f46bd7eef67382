"""Artifacts: a folder of files with a manifest that says what they are and where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import canonical_json, pretty_json, read_json, sha256_file

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
ID_LENGTH = 16

Kind = Literal["crawl", "documents", "tokenizer", "tokens", "checkpoint", "evaluation", "report"]
KINDS: tuple[str, ...] = ("crawl", "documents", "tokenizer", "tokens", "checkpoint", "evaluation", "report")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Record):
    """One file of an artifact: path relative to its folder, size in bytes, sha256 in hex."""

    path: str
    size: int
    sha256: str


class InputRef(_Record):
    """An input artifact as the manifest remembers it; `name` is what the user called it, if anything."""

    id: str
    kind: str
    name: str | None = None


class Manifest(_Record):
    """What an artifact is: see the field names. Written last, so its presence means the artifact is whole."""

    schema_version: int = SCHEMA_VERSION
    id: str
    kind: Kind
    stage: str
    revision: int
    inputs: dict[str, list[InputRef]]
    sources: dict[str, str]
    config: dict[str, Any]
    files: list[FileEntry]
    counts: dict[str, Any]
    metrics: dict[str, Any]
    performance: dict[str, Any]
    seed: int
    code_version: str
    environment: dict[str, str]
    started: str
    duration_seconds: float

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    def to_json(self) -> bytes:
        return pretty_json(self.model_dump())


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
        """Compare every file with the manifest; one line a difference, empty when whole."""
        known = {entry.path for entry in self.manifest.files}
        found = [message for entry in self.manifest.files if (message := self._damage_of(entry))]
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_file() and name != MANIFEST_NAME and name not in known:
                found.append(f"{name}: not in the manifest")
        return found

    def _damage_of(self, entry: FileEntry) -> str | None:
        path = self.path / entry.path
        if not path.is_file():
            return f"{entry.path}: missing"
        size = path.stat().st_size
        if size != entry.size:
            return f"{entry.path}: {size} bytes, the manifest says {entry.size}"
        if sha256_file(path) != entry.sha256:
            return f"{entry.path}: its sha256 is not the manifest's"
        return None

    def missing_or_resized(self) -> list[str]:
        """The quick part of `damage`: files gone or of another size."""
        found = []
        for entry in self.manifest.files:
            path = self.path / entry.path
            if not path.is_file() or path.stat().st_size != entry.size:
                found.append(entry.path)
        return found


def _rebuild_hint(identifier: str) -> str:
    return f"longcat artifacts verify {identifier}, then `longcat artifacts gc --damaged` and run again"


def load_artifact(folder: Path) -> Artifact:
    """Read the artifact at `folder`.

    Raises:
        FileNotFoundError: no manifest is there.
        IntegrityError: the manifest cannot be read.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate(read_json(path))
    except FileNotFoundError:
        raise
    except (ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(f"the manifest cannot be read: {reason}", where=str(path)) from None
    return Artifact(folder, manifest)
