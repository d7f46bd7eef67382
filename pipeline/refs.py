"""Names for artifacts: `refs/<name>.json` holds the versions of a name, newest last."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from longcat.pipeline.errors import IntegrityError, MissingArtifactError, UsageError
from longcat.pipeline.files import atomic_write, pretty_json, read_json
from longcat.pipeline.lock import locked

NAME_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")


class Version(BaseModel):
    """One version of a name: the artifact it stood for and since when (UTC, ISO 8601)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    kind: str
    created: str


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


class Refs:
    """The names of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json")) if self.folder.is_dir() else []

    def versions(self, name: str) -> list[Version]:
        """All versions of `name`, newest last; empty when there is no such name.

        Raises:
            IntegrityError: the file of the name is damaged.
        """
        path = self.folder / f"{check_name(name)}.json"
        try:
            return [Version.model_validate(item) for item in read_json(path)["versions"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise IntegrityError(
                f"the versions of {name!r} cannot be read: {str(error).splitlines()[0]}", where=str(path)
            ) from None

    def publish(self, name: str, identifier: str, kind: str, created: str) -> Named:
        """Make `identifier` the newest version of `name`; nothing changes if it already is."""
        check_name(name)
        with self._locked():
            versions = self.versions(name)
            if not versions or versions[-1].id != identifier:
                versions.append(Version(id=identifier, kind=kind, created=created))
                content = {"versions": [version.model_dump() for version in versions]}
                atomic_write(self.folder / f"{name}.json", pretty_json(content))
            return Named(name, len(versions), versions[-1])

    def lookup(self, reference: str) -> Named | None:
        """`name`, `name@3` or `name@latest`; None when the name is unknown.

        Raises:
            MissingArtifactError: the name exists and the version does not.
        """
        name, _, wanted = reference.partition("@")
        if not NAME_PATTERN.fullmatch(name):
            return None
        versions = self.versions(name)
        if not versions:
            return None
        if wanted in ("", "latest"):
            return Named(name, len(versions), versions[-1])
        if not wanted.isdigit() or not 1 <= int(wanted) <= len(versions):
            raise MissingArtifactError(f"{name!r} has versions 1 to {len(versions)}, not {wanted!r}", where=reference)
        return Named(name, int(wanted), versions[int(wanted) - 1])

    def every(self) -> Iterator[Named]:
        """Every version of every name, by name, oldest first."""
        for name in self.names():
            for number, version in enumerate(self.versions(name), start=1):
                yield Named(name, number, version)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self.folder / ".lock"):
            yield
