"""Names for artifacts: `refs/<name>.json` holds the versions of a name, newest last."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from longcat.pipeline.artifact import Kind, check_id
from longcat.pipeline.errors import IntegrityError, MissingArtifactError, NewerArtifactError, UsageError
from longcat.pipeline.files import atomic_write, fsync_folder, pretty_json, read_json
from longcat.pipeline.lock import locked

NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
SCHEMA_VERSION = 1


class Version(BaseModel):
    """One version of a name: the artifact it stood for and since when (UTC, ISO 8601).

    One that was taken away keeps its place, so that the numbers of the others stay: `removed` says when.
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
    """A version with its place: `name@number`, numbers counted from 1."""

    name: str
    number: int
    version: Version


def check_name(name: str) -> str:
    """Return `name` if it may stand in `refs/`.

    Raises:
        UsageError: it may not; says what may.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name an artifact",
            hint="a letter, then up to 99 letters, digits, dots, dashes, underscores",
        )
    return name


def is_name_file(path: Path) -> bool:
    """Whether a file of `refs/` holds the versions of a name; what file managers and copies leave does not."""
    return path.suffix == ".json" and NAME_PATTERN.fullmatch(path.stem) is not None


class Refs:
    """The names of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def names(self) -> list[str]:
        """All names; files that cannot be those of a name are passed over."""
        return sorted(path.stem for path in self.folder.glob("*.json") if is_name_file(path))

    def all_versions(self, name: str) -> list[Version]:
        """All versions of `name`, those taken away too; empty when there is no such name.

        Raises:
            NewerArtifactError: a newer version of longcat wrote the file.
            IntegrityError: the file of the name is damaged.
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
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise IntegrityError(
                f"the versions of {name!r} cannot be read: {reason}",
                where=str(path),
                hint="`longcat artifacts fsck --repair` makes the file again from the run logs",
            ) from None

    def versions(self, name: str) -> list[Version]:
        """The versions of `name` that stand, newest last; see `all_versions`."""
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

        `before` is called with what will be written.
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
        """Replace the versions of a name, or drop the name when none stands. Within `changing`."""
        if any(version.removed is None for version in versions):
            content = {"versions": [version.model_dump(exclude_none=True) for version in versions]}
            atomic_write(self.path(name), pretty_json(content))
        else:
            self.path(name).unlink(missing_ok=True)
            fsync_folder(self.folder)

    def take_away(self, name: str, chosen: Callable[[Named], bool], when: str) -> list[Named]:
        """Take versions of a name away and return them; their numbers are not given again while others stand."""
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
        """Give all versions of `old` the name `new`.

        Raises:
            MissingArtifactError: there is no `old`.
            UsageError: there is a `new` already, or it cannot be a name.
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
        """Every version of every name that can be read, by name, oldest first; see `unreadable` for the others."""
        for name in self.names():
            try:
                versions = self.all_versions(name)
            except IntegrityError:
                continue
            for number, version in enumerate(versions, start=1):
                if version.removed is None:
                    yield Named(name, number, version)

    def unreadable(self) -> dict[str, IntegrityError]:
        """The names whose files cannot be read, and why."""
        found = {}
        for name in self.names():
            try:
                self.all_versions(name)
            except IntegrityError as error:
                found[name] = error
        return found

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the right to write names."""
        with locked(self.folder / ".lock"):
            yield
