"""Code version and machine that made an artifact."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")
RECORDED_PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "tokenizers",
    "gigatoken",
    "datasketch",
    "phonenumbers",
    "idna",
    "fasttext-community",
    "zstandard",
    "resiliparse",
    "fastwarc",
    "orjson",
    "pyarrow",
    "safetensors",
)


def package_version(name: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Python, platform, CPU, cores and versions of the packages that affect results."""
    from longcat.pipeline.engine.local import available_cores

    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": str(available_cores()),
    }
    if instructions := _instructions():
        found["instructions"] = instructions
    found.update({name: text for name in RECORDED_PACKAGES if (text := package_version(name))})
    return found


def made_otherwise(code: str, recorded: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Differences between the code and environment of an artifact and those here: (there, here) by name.

    Values not recorded in the manifest are omitted.
    """
    here = {"code": code_version(), **environment()}
    there = {"code": code, **recorded}
    return {name: (value, here.get(name, "")) for name, value in there.items() if value != here.get(name, "")}


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _instructions() -> str:
    """CPU instruction sets by which matrix libraries select kernels."""
    flags = next((line for line in _cpuinfo() if line.startswith(("flags", "Features"))), "").split()
    return " ".join(name for name in INSTRUCTION_SETS if name in flags)


def _processor() -> str:
    """CPU model name, or its architecture if unknown."""
    lines = _cpuinfo()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version of the distribution; in a git checkout also the commit and whether the tree is modified."""
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
