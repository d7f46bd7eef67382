"""Build the documentation like `make docs`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def build_site(tree: Path, folder: Path) -> None:
    """`mkdocs build --strict` of the pages in `tree`."""
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
