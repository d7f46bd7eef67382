"""Names and state files of the saves of a run; no torch.

    step-000000300/state.json   {"step", "state", "files": sha256 by name, "sha256": that of the rest}

The step counts from the start of the run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longcat.pipeline.files import canonical_json, read_json

STEP_FOLDER = re.compile(r"step-(\d{9,})")
STATE_FILE = "state.json"


def folder_name(step: int) -> str:
    return f"step-{step:09d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def save_folders(folder: Path) -> list[Path]:
    """Folders of saves in a folder, oldest first; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name)), key=step_of)


def write_save_state(folder: Path, content: Mapping[str, Any]) -> None:
    """Write state.json: `content` and its digest."""
    (folder / STATE_FILE).write_bytes(canonical_json({**content, "sha256": _digest(content)}))


def read_save_state(folder: Path) -> dict[str, Any] | None:
    """Content of state.json without its digest; None if it is missing or any byte has changed."""
    try:
        content: dict[str, Any] = read_json(folder / STATE_FILE)
        whole = content.pop("sha256") == _digest(content) and {"step", "state", "files"} <= content.keys()
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return content if whole else None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(content)).hexdigest()
