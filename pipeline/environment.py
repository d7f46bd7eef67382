"""What code and which machine made an artifact."""

from __future__ import annotations

import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RECORDED_PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "tokenizers",
    "fasttext-community",
    "zstandard",
    "resiliparse",
)


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Python, platform, processor count and the versions of the packages that shape results."""
    from pipeline.engine.local import available_cores

    found = {"python": platform.python_version(), "platform": platform.platform(), "cores": str(available_cores())}
    found.update({name: text for name in RECORDED_PACKAGES if (text := package_version(name))})
    return found


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of the distribution; in a git checkout also the commit and whether it was changed."""
    base = package_version("longcat-cli") or "unknown"
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return base
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return base
    dirty = ".dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{base}+g{commit}{dirty}"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
