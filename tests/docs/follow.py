"""Follow a page that describes changes of the repository: write its files, apply its diffs, run its tests.

A block of Python whose first line is `# FOLDER/NAME.py` is a new file. A block of `diff` changes an existing file:
`--- FOLDER/NAME`, then hunks in the format of `diff -u`, without line numbers, each started by `@@`. The context and
removed lines of a hunk must occur in the file exactly once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT, Block

COPIED = ("kernels", "longcat_cli", "model", "pipeline", "stages", "src", "tests", "pyproject.toml")


def copy_repository(target: Path) -> None:
    """Copy the code, its tests and their settings."""
    target.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, target / name)


def changed(text: str, hunk: str, where: str) -> str:
    """Return the text with lines marked `-` replaced by lines marked `+`."""
    lines = [line or " " for line in hunk.splitlines()]
    old = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
    new = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
    found = len(re.findall(f"^{re.escape(old)}", text, re.MULTILINE))
    assert found == 1, f"{where}: these lines are {found} times in the file, not once:\n{old}"
    return re.sub(f"^{re.escape(old)}", lambda _: new, text, flags=re.MULTILINE)


def follow(block: Block, root: Path) -> Path | None:
    """Apply a block; return the file written, or None for a block that is neither a file nor a diff."""
    if block.module:
        path = root / block.module
        assert not path.exists(), f"{block.where}: {block.module} already exists"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text.partition("\n")[2])
        return path
    if block.language != "diff":
        return None
    head, *hunks = re.split(r"^(?:--- |@@\n)", block.text, flags=re.MULTILINE)[1:]
    name, _, first = head.partition("\n")
    path = root / name
    text = path.read_text()
    for hunk in filter(None, (first, *hunks)):
        text = changed(text, hunk, f"{block.where}: {name}")
    path.write_text(text)
    return path


def call(root: Path, *command: str) -> None:
    """Run Python in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", *command],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
