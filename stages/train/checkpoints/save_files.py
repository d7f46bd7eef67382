"""Names and state files of the saves of a run; no torch.

    step-000000300/state.json   {"step", "state", "files": sha256 by name, "sha256": that of the rest}

The step counts from the start of the run.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longcat.pipeline.files import canonical_json, read_json

STEP_FOLDER = re.compile(r"step-(\d{9,})")
STATE_FILE = "state.json"
METRICS = "metrics.jsonl"
# Saves in a finished artifact.
KEPT = Path("training") / "saves"


def folder_name(step: int) -> str:
    return f"step-{step:09d}"


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def save_folders(folder: Path) -> list[Path]:
    """Folders of saves in a folder, oldest first; empty if it does not exist."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name)), key=step_of)


def saves_of(root: Path) -> dict[int, Path]:
    """Saves of a run by step, oldest first, from its work folder or from its finished artifact."""
    folders = [root / KEPT, *(path / "checkpoints" for path in sorted(root.glob("*")))]
    found = {step_of(save): save for folder in folders for save in save_folders(folder)}
    return dict(sorted(found.items()))


def metrics_of(root: Path) -> list[Path]:
    """Files metrics.jsonl of a run, one a phase, from its work folder or from its finished artifact."""
    return sorted(path for path in (root / METRICS, *root.glob(f"*/{METRICS}")) if path.is_file())


def keep_saves(work: Path, output: Path, every: int) -> None:
    """Put the saves of multiples of `every` steps, but the last one, into a finished artifact, without a copy."""
    saves = saves_of(work)
    for step, save in saves.items():
        if not every or step % every or step == max(saves):
            continue
        target = output / KEPT / save.name
        target.mkdir(parents=True, exist_ok=True)
        for path in save.iterdir():
            (target / path.name).unlink(missing_ok=True)
            _link(path, target / path.name)


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


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
