"""What is in a store, in a form in which a run that was killed can be compared with one that was not."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

# What depends on the clock, in manifests, names, pins and entries of the quarantine.
CLOCK = ("started", "duration_seconds", "performance", "created", "removed", "pinned", "time")
# Random and dated parts of names.
PASSING = (
    (re.compile(r"\d{8}T\d{6}-([0-9a-f]{16})-[0-9a-f]{8}"), r"\1"),
    (re.compile(r"(live/|\.purge-|\.probe-)[0-9a-f-]+"), r"\1*"),
    (re.compile(r"\.\d+-[0-9a-f]{8}\.tmp"), ".*.tmp"),
)
ASIDE = (".staging", ".trash", "logs")


def contents(stores: Path) -> dict[str, Any]:
    """Files of artifacts, names, pins and second manifests by path; JSON without what depends on the clock."""
    return {name: _timeless(data) if name.endswith(".json") else data for name, data in raw(stores).items()}


def raw(stores: Path) -> dict[str, bytes]:
    """The same, every byte."""
    found = {}
    for path in sorted(stores.rglob("*")):
        name = path.relative_to(stores)
        if path.is_file() and name.parts[1] not in ASIDE and path.name != ".lock" and not is_torn(path):
            found[name.as_posix()] = path.read_bytes()
    return found


def is_torn(path: Path) -> bool:
    """What a kill amid a small write leaves; nothing reads it, and `gc` clears it after an hour."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def let_an_hour_pass(stores: Path) -> None:
    """Make what is torn old enough for `gc`, and the probes of renames too."""
    for path in stores.rglob(".*"):
        if is_torn(path) or path.name.startswith(".probe-"):
            os.utime(path, (1, 1))


def stamps(stores: Path) -> dict[str, tuple[int, int]]:
    """By path what changes when a file is written again, be it with the same bytes."""
    found = {path.relative_to(stores).as_posix(): path.stat() for path in stores.rglob("*") if path.is_file()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def _timeless(data: bytes) -> Any:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in CLOCK}
        return [strip(item) for item in value] if isinstance(value, list) else value

    try:
        return strip(json.loads(data))
    except ValueError:
        return data


def paths(stores: Path) -> set[str]:
    """Everything that lies there, work in progress and quarantine too; passing parts of names are `*`."""
    found = set()
    for path in stores.rglob("*"):
        name = path.relative_to(stores).as_posix()
        for pattern, kept in PASSING:
            name = pattern.sub(kept, name)
        found.add(name)
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line a path that is missing, not expected, or of other bytes."""
    lines = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"not expected: {name}" for name in sorted(found.keys() - expected.keys())]
    lines += [f"differs: {name}" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]]
    return lines
