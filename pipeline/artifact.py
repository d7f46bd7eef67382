"""Artifacts: folders of files with a manifest that records content and origin."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from longcat.pipeline.errors import IntegrityError, NewerArtifactError
from longcat.pipeline.files import canonical_json, pretty_json, read_json, sha256_file, walk
from longcat.pipeline.validation import UNKNOWN, Problem, problems_of, reason_of

# 2: the manifest lists the configuration keys excluded from the id, so that the id can be recomputed.
SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
ID_LENGTH = 16
ID_PATTERN = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")

Kind = Literal["crawl", "documents", "tokenizer", "tokens", "checkpoint", "evaluation", "report"]
KINDS: tuple[str, ...] = get_args(Kind)
KeyPath = tuple[str | int, ...]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def check_id(identifier: str) -> str:
    """Return `identifier` if it is a valid artifact id.

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
            raise ValueError(f"the path {path[:100]!r} points outside the artifact")
        return path


class InputRef(_Record):
    """An input artifact as recorded in the manifest; `name` is the name the user gave, if any."""

    id: str
    kind: Kind
    name: str | None = None

    @field_validator("id")
    @classmethod
    def _is_id(cls, identifier: str) -> str:
        return check_id(identifier)


class Manifest(_Record):
    """Content and origin of an artifact. Written last, so its presence means that the artifact is complete.

    `runtime` holds the paths of the configuration keys that affect how the stage runs and are excluded from the id;
    None in manifests of schema 1.
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
            raise ValueError(f"the file {twice!r} is listed twice")
        return files

    @property
    def total_bytes(self) -> int:
        return sum(entry.size for entry in self.files)

    def ancestors(self) -> list[InputRef]:
        """Inputs of all roles."""
        return [reference for references in self.inputs.values() for reference in references]

    def identity(self) -> str | None:
        """Id recomputed from the manifest; None if the manifest lacks the needed fields."""
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
    """First 16 hex digits of the SHA-256 of everything that determines an artifact's bytes.

    `inputs` holds artifact ids by role, `sources` digests of files outside the store.
    """
    recipe = {"stage": stage, "revision": revision, "config": config, "inputs": inputs, "sources": sources}
    return hashlib.sha256(canonical_json(recipe)).hexdigest()[:ID_LENGTH]


def without_keys(values: Mapping[str, Any], paths: Sequence[KeyPath]) -> dict[str, Any]:
    """Copy of nested JSON values without the keys at `paths`."""
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
            IntegrityError: the manifest does not list it, or the file is missing.
        """
        path = self.path / name
        if not path.is_file():
            raise IntegrityError(f"the file {name} is missing", where=str(self.path), hint=_rebuild_hint(self.id))
        return path

    def damage(self) -> list[str]:
        """Compare files, manifest and id; returns one line per difference, empty if intact."""
        found = [message for entry in self.manifest.files if (message := self._damage_of(entry))]
        found += [f"{name}: {what}" for name, what in self.strangers()]
        identity = self.manifest.identity()
        if identity not in (None, self.id):
            found.append(f"{MANIFEST_NAME}: its stage, configuration and inputs give the id {identity}")
        return found

    def strangers(self) -> Iterator[tuple[str, str]]:
        """Entries of the folder that are neither a listed file nor a plain folder: path and description."""
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
            return f"{entry.path}: its sha256 differs from the manifest"
        return None

    def _plain_size(self, entry: FileEntry) -> int | None:
        """Size of a listed file; None if it is missing, a link, or below a link."""
        path = self.path / entry.path
        behind = [parent for parent in path.parents if parent.is_relative_to(self.path) and parent != self.path]
        try:
            found = path.lstat()
        except OSError:
            return None
        linked = any(parent.is_symlink() for parent in behind)
        return found.st_size if stat.S_ISREG(found.st_mode) and not linked else None

    def missing_or_resized(self) -> list[str]:
        """Fast part of `damage`: files that are missing or have another size."""
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
        problems = problems_of(error)
        if all(problem.kind == UNKNOWN for problem in problems):
            # All known fields are valid: written by a version that added fields without raising the schema.
            raise NewerArtifactError(
                f"made by a newer longcat: it has {_shown_keys(problems)}, which this one does not know",
                where=str(path),
                hint="upgrade longcat; the artifact is neither used nor deleted",
            ) from None
        reason = str(problems[0])
    except ValueError as error:
        reason = reason_of(error)
    raise IntegrityError(
        f"the manifest cannot be read: {reason}",
        where=str(path),
        hint="`longcat artifacts fsck --repair` repairs it, `artifacts gc --damaged --yes` moves the artifact aside",
    )


def _shown_keys(problems: Iterable[Problem]) -> str:
    return ", ".join(repr(problem.path)[:100] for problem in problems)[:300]


def load_artifact(folder: Path) -> Artifact:
    """Read the artifact at `folder`, which is named after its id.

    Raises:
        FileNotFoundError: there is no manifest.
        NewerArtifactError: a newer version of longcat wrote it.
        IntegrityError: the manifest cannot be read, or belongs to another artifact.
    """
    path = folder / MANIFEST_NAME
    manifest = read_manifest(path)
    if manifest.id != folder.name:
        raise IntegrityError(
            f"the manifest belongs to {manifest.kind}/{manifest.id}, the folder is named {folder.name}",
            where=str(path),
            hint=f"rename the folder to {manifest.id}, or remove it",
        )
    return Artifact(folder, manifest)
