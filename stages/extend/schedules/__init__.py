"""Schedules of an extension: one YAML file each, with a `description` and the `config` of `extend` that it sets."""

from __future__ import annotations

import difflib
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

SUFFIX = ".yaml"
MAX_BYTES = 1 << 16


class LengthSchedule(NamedTuple):
    """A bundled schedule: its paragraph, and the values of `ExtendConfig` that it sets."""

    name: str
    description: str
    config: dict[str, Any]


def schedule_names() -> list[str]:
    """Names of all bundled schedules, sorted."""
    return sorted(file.name.removesuffix(SUFFIX) for file in _folder().iterdir() if file.name.endswith(SUFFIX))


def load_schedule(name: str) -> LengthSchedule:
    """Read a bundled schedule.

    Raises:
        ValueError: there is none of this name; the message has the nearest one, or all.
    """
    import yaml

    known = schedule_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(f"no schedule {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"{', '.join(known)}"))
    with _folder().joinpath(name + SUFFIX).open("rb") as file:
        content: dict[str, Any] = yaml.safe_load(file.read(MAX_BYTES))
    return LengthSchedule(name, " ".join(content["description"].split()), content["config"])


def _folder() -> Traversable:
    return resources.files(__name__)
