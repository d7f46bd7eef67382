"""The distributions, built once from this tree, and an environment with the wheel installed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Built:
    """Source distribution, its unpacked tree, the wheel built from it and the wheel built from this tree."""

    sdist: Path
    tree: Path
    wheel: Path
    direct_wheel: Path


def clean_environment(**changes: str) -> dict[str, str]:
    """Environment variables of this process without those that point to this tree."""
    dropped = {"PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in dropped} | changes


def build(tree: Path, target: str, out: Path) -> Path:
    command = [sys.executable, "-P", "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build both distributions; no network needed."""
    folder = tmp_path_factory.mktemp("built")
    sdist = build(ROOT, "sdist", folder / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (tree,) = (folder / "unpacked").iterdir()
    return Built(sdist, tree, build(tree, "wheel", folder / "wheel"), build(ROOT, "wheel", folder / "direct"))


def new_environment(folder: Path) -> Path:
    """Make an empty virtual environment that can use the dependencies of this one; return its interpreter."""
    subprocess.run([sys.executable, "-P", "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    python = folder / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    paths = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (Path(site) / "dependencies.pth").write_text("".join(f"{path}\n" for path in paths))
    return python


def pip_install(python: Path, *arguments: str) -> None:
    command = [sys.executable, "-P", "-m", "pip", "--python", str(python), "install", "--quiet", *arguments]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of an environment with the wheel installed by pip; no network needed."""
    python = new_environment(tmp_path_factory.mktemp("installed") / "venv")
    pip_install(python, "--no-deps", "--no-index", str(built.wheel))
    return python
