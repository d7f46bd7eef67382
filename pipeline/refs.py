"""Names for artifacts: `refs/<name>.json` holds the versions of a name, newest last."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from longcat.pipeline.artifact import Kind, check_id
from longcat.pipeline.errors import IntegrityError, MissingArtifactError, NewerArtifactError, UsageError
from longcat.pipeline.files import atomic_write, fsync_folder, pretty_json, read_json
from longcat.pipeline.lock import locked
from longcat.pipeline.validation import reason_of

NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
SCHEMA_VERSION = 1


class Version(BaseModel):
    """One version of a name: the artifact id and the time of naming (UTC, ISO 8601).

    A removed version keeps its place, so that other numbers do not change: `removed` is the time of removal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    kind: Kind
    created: str
    removed: str | None = None

    @field_validator("id")
    @classmethod
    def _is_id(cls, identifier: str) -> str:
        return check_id(identifier)


@dataclass(frozen=True)
class Named:
    """A version with its number: `name@number`, counted from 1."""

    name: str
    number: int
    version: Version


def check_name(name: str) -> str:
    """Return `name` if it is a valid artifact name.

    Raises:
        UsageError: it is invalid; the hint states the rule.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid artifact name",
            hint="a letter, then up to 99 letters, digits, dots, dashes, underscores",
        )
    return name


def is_name_file(path: Path) -> bool:
    """Whether a file of `refs/` is a name file, not a leftover of file managers or copies."""
    return path.suffix == ".json" and NAME_PATTERN.fullmatch(path.stem) is not None


class Refs:
    """Names of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def names(self) -> list[str]:
        """All names; other files are skipped."""
        return sorted(path.stem for path in self.folder.glob("*.json") if is_name_file(path))

    def all_versions(self, name: str) -> list[Version]:
        """All versions of `name`, including removed ones; empty if the name does not exist.

        Raises:
            NewerArtifactError: a newer version of longcat wrote the file.
            IntegrityError: the name file is damaged.
        """
        path = self.path(check_name(name))
        try:
            content = read_json(path)
            schema = content.get("schema_version", 1)
            if schema > SCHEMA_VERSION:
                raise NewerArtifactError(
                    f"written by a newer longcat (schema {schema}), this one knows {SCHEMA_VERSION}",
                    where=str(path),
                    hint="upgrade longcat",
                )
            return [Version.model_validate(item) for item in content["versions"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"the versions of {name!r} cannot be read: {reason_of(error)}",
                where=str(path),
                hint="`longcat artifacts fsck --repair` restores the file from the run logs",
            ) from None

    def versions(self, name: str) -> list[Version]:
        """Versions of `name` that were not removed, newest last; see `all_versions`."""
        return [version for version in self.all_versions(name) if version.removed is None]

    def publish(
        self,
        name: str,
        identifier: str,
        kind: str,
        created: str,
        before: Callable[[Named], None] = lambda named: None,
    ) -> Named:
        """Make `identifier` the newest version of `name`; nothing is written if it already is.

        `before` is called with the versions to be written.
        """
        check_name(name)
        if (named := self._newest(name, identifier)) is not None:
            return named
        with self.changing():
            if (named := self._newest(name, identifier)) is not None:
                return named
            version = Version.model_validate({"id": identifier, "kind": kind, "created": created})
            versions = [*self.all_versions(name), version]
            named = Named(name, len(versions), version)
            before(named)
            self.write(name, versions)
            return named

    def _newest(self, name: str, identifier: str) -> Named | None:
        versions = self.all_versions(name)
        stands = bool(versions) and versions[-1].removed is None and versions[-1].id == identifier
        return Named(name, len(versions), versions[-1]) if stands else None

    def write(self, name: str, versions: list[Version]) -> None:
        """Replace the versions of a name, or delete the name if all are removed. Call within `changing`."""
        if any(version.removed is None for version in versions):
            content = {"versions": [version.model_dump(exclude_none=True) for version in versions]}
            atomic_write(self.path(name), pretty_json(content))
        else:
            self.path(name).unlink(missing_ok=True)
            fsync_folder(self.folder)

    def take_away(self, name: str, chosen: Callable[[Named], bool], when: str) -> list[Named]:
        """Remove versions of a name and return them; their numbers are not reused while others exist."""
        with self.changing():
            versions = self.all_versions(name)
            gone = [
                named
                for number, version in enumerate(versions, start=1)
                if version.removed is None and chosen(named := Named(name, number, version))
            ]
            for named in gone:
                versions[named.number - 1] = named.version.model_copy(update={"removed": when})
            if gone:
                self.write(name, versions)
        return gone

    def rename(self, old: str, new: str) -> None:
        """Rename `old` to `new` with all versions.

        Raises:
            MissingArtifactError: `old` does not exist.
            UsageError: `new` exists, or is not a valid name.
        """
        check_name(new)
        with self.changing():
            if not self.all_versions(old):
                raise MissingArtifactError(f"no name {old!r}", hint=f"known names: {', '.join(self.names()) or 'none'}")
            if self.path(new).exists():
                raise UsageError(f"the name {new!r} is taken", hint=f"`longcat artifacts remove {new}` frees it")
            self.path(old).rename(self.path(new))
            fsync_folder(self.folder)

    def lookup(self, reference: str) -> Named | None:
        """`name`, `name@3` or `name@latest`; None when the name is unknown.

        Raises:
            MissingArtifactError: the name exists and the version does not.
        """
        name, _, wanted = reference.partition("@")
        if not NAME_PATTERN.fullmatch(name):
            return None
        versions = self.all_versions(name)
        standing = [number for number, version in enumerate(versions, start=1) if version.removed is None]
        if not standing:
            return None
        if wanted in ("", "latest"):
            return Named(name, standing[-1], versions[standing[-1] - 1])
        if not re.fullmatch(r"[0-9]{1,9}", wanted) or int(wanted) not in standing:
            known = ", ".join(str(number) for number in standing)
            raise MissingArtifactError(f"{name!r} has the versions {known}, not {wanted!r}", where=reference)
        return Named(name, int(wanted), versions[int(wanted) - 1])

    def every(self) -> Iterator[Named]:
        """All readable versions by name, oldest first; see `unreadable` for the others."""
        for name in self.names():
            try:
                versions = self.all_versions(name)
            except IntegrityError:
                continue
            for number, version in enumerate(versions, start=1):
                if version.removed is None:
                    yield Named(name, number, version)

    def unreadable(self) -> dict[str, IntegrityError]:
        """Names whose files cannot be read, and why."""
        found = {}
        for name in self.names():
            try:
                self.all_versions(name)
            except IntegrityError as error:
                found[name] = error
        return found

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock for writing names."""
        with locked(self.folder / ".lock"):
            yield
