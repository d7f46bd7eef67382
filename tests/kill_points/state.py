"""Contents of a store in a form that allows comparing a killed run with an undisturbed one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

# Keys with timestamps in manifests, names, pins and quarantine entries.
CLOCK = ("started", "duration_seconds", "performance", "created", "removed", "pinned", "time")
# Random and time-dependent parts of names.
PASSING = (
    (re.compile(r"\d{8}T\d{6}-([0-9a-f]{16})-[0-9a-f]{8}"), r"\1"),
    (re.compile(r"(live/|\.purge-|\.probe-)[0-9a-f-]+"), r"\1*"),
    (re.compile(r"\.\d+-[0-9a-f]{8}\.tmp"), ".*.tmp"),
)
ASIDE = (".staging", ".trash", "logs")


def contents(stores: Path) -> dict[str, Any]:
    """Files of artifacts, names, pins and second manifests by path; JSON without timestamps."""
    return {name: _timeless(data) if name.endswith(".json") else data for name, data in raw(stores).items()}


def raw(stores: Path) -> dict[str, bytes]:
    """The same, with unmodified bytes."""
    found = {}
    for path in sorted(stores.rglob("*")):
        name = path.relative_to(stores)
        if path.is_file() and name.parts[1] not in ASIDE and path.name != ".lock" and not is_torn(path):
            found[name.as_posix()] = path.read_bytes()
    return found


def is_torn(path: Path) -> bool:
    """Whether a file is left by a kill during a small write; nothing reads it, and `gc` deletes it after an hour."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def let_an_hour_pass(stores: Path) -> None:
    """Make torn files and rename probes old enough for `gc`."""
    for path in stores.rglob(".*"):
        if is_torn(path) or path.name.startswith(".probe-"):
            os.utime(path, (1, 1))


def stamps(stores: Path) -> dict[str, tuple[int, int]]:
    """Metadata by path that changes when a file is rewritten, even with the same bytes."""
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
    """All paths, including work in progress and quarantine; random parts of names are `*`."""
    found = set()
    for path in stores.rglob("*"):
        name = path.relative_to(stores).as_posix()
        for pattern, kept in PASSING:
            name = pattern.sub(kept, name)
        found.add(name)
    return found


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """One line per path that is missing, not expected, or different."""
    lines = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"not expected: {name}" for name in sorted(found.keys() - expected.keys())]
    lines += [f"differs: {name}" for name in sorted(expected.keys() & found.keys()) if expected[name] != found[name]]
    return lines
