"""Owners of the import name `longcat`, and leftovers of older versions under other top-level names."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

DISTRIBUTION, PACKAGE = "longcat-cli", "longcat"
# Older versions installed these at top level; one file of each identifies them among other packages of that name.
FORMER = {
    "kernels": "kernels/mla_attention/__init__.py",
    "longcat_cli": "longcat_cli/app.py",
    "model": "model/transformer.py",
    "pipeline": "pipeline/store.py",
    "stages": "stages/data/__init__.py",
}


@dataclass(frozen=True)
class Owner:
    """An installed distribution that has files below one of the names."""

    name: str
    version: str
    place: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Ownership:
    """`owners` of `longcat`; `former`: our distributions that own an old name; `left`: old names without an owner."""

    owners: tuple[Owner, ...]
    former: tuple[Owner, ...]
    left: tuple[Path, ...]

    @property
    def strangers(self) -> list[Owner]:
        return [owner for owner in self.owners if not is_ours(owner.name)]


def ownership(path: Iterable[str] | None = None) -> Ownership:
    """Inspect every distribution on the module path, or on `path`."""
    places = [Path(entry) for entry in (sys.path if path is None else path) if entry]
    owners, former, owned = [], [], set()
    for found in distributions(path=[str(place) for place in places]):
        owner = Owner(str(found.metadata["Name"]), str(found.version), Path(str(found.locate_file(""))))
        names = set(_top_names(found))
        if PACKAGE in names or is_ours(owner.name):
            owners.append(owner)
        if is_ours(owner.name) and names & FORMER.keys():
            former.append(owner)
        owned |= {owner.place / name for name in names}
    installed = [place for place in dict.fromkeys(places) if not (place / "src" / PACKAGE).is_dir()]  # not a clone
    left = [place / name for place in installed for name in FORMER if (place / FORMER[name]).is_file()]
    return Ownership(
        tuple(dict.fromkeys(owners)), tuple(dict.fromkeys(former)), tuple(name for name in left if name not in owned)
    )


def is_ours(name: str) -> bool:
    """Whether this is our distribution's name, after normalization."""
    return re.sub(r"[-_.]+", "-", name).lower() == DISTRIBUTION


def _top_names(found: Distribution) -> Iterator[str]:
    for file in found.files or ():
        if file.parts[0] not in ("..", "/") and len(file.parts) > 1:
            yield file.parts[0]
