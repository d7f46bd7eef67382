"""The wheel in environments of users: together with Hugging Face's `kernels`, on newer Pythons, as a tool.

These tests install from a package index and take minutes: `make test-package`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.package.conftest import Built, clean_environment, new_environment, pip_install

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KERNELS = "kernels>=0.10"
# Code that needs no torch: all modules of the pipeline and of the data stages, and a run of two of these.
WITHOUT_TORCH = """
import compileall, pkgutil, sys
import longcat, longcat.pipeline, longcat.stages
assert compileall.compile_dir(longcat.__path__[0], quiet=1)
for module in pkgutil.walk_packages(longcat.pipeline.__path__, "longcat.pipeline."):
    if not module.name.endswith(".ray"):
        __import__(module.name)
assert "torch" not in sys.modules
"""


def call(python: Path, *arguments: str, folder: Path) -> str:
    command = [str(python), "-P", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def uninstall(python: Path, name: str) -> None:
    command = [sys.executable, "-P", "-m", "pip", "--python", str(python), "uninstall", "--quiet", "--yes", name]
    subprocess.run(command, env=clean_environment(), check=True, capture_output=True, timeout=300)


def files_of(python: Path, name: str, folder: Path) -> set[str]:
    script = "import importlib.metadata as m, json, sys; print(json.dumps([str(f) for f in m.files(sys.argv[1])]))"
    return set(json.loads(call(python, "-c", script, name, folder=folder)))


@pytest.mark.parametrize("first", ["longcat", "kernels"])
def test_the_wheel_and_hugging_face_kernels_can_be_installed_together(built: Built, tmp_path: Path, first: str) -> None:
    python = new_environment(tmp_path / "venv")
    for name in ("longcat", "kernels") if first == "longcat" else ("kernels", "longcat"):
        pip_install(python, "--no-deps", str(built.wheel) if name == "longcat" else KERNELS)
    assert not files_of(python, "longcat-cli", tmp_path) & files_of(python, "kernels", tmp_path)
    script = "import kernels, longcat.kernels.rms_norm, longcat.model.transformer; print(kernels.__file__)"
    assert "longcat" not in Path(call(python, "-c", script, folder=tmp_path).strip()).parts
    call(python, "-c", "from transformers import AutoModelForCausalLM; AutoModelForCausalLM.__name__", folder=tmp_path)
    assert "import name" in call(python, "-m", "longcat.cli", "doctor", folder=tmp_path)


@pytest.mark.parametrize("gone", ["longcat-cli", "kernels"])
def test_uninstalling_one_does_not_damage_the_other(built: Built, tmp_path: Path, gone: str) -> None:
    python = new_environment(tmp_path / "venv")
    pip_install(python, "--no-deps", str(built.wheel))
    pip_install(python, "--no-deps", KERNELS)
    uninstall(python, gone)
    left = "kernels" if gone == "longcat-cli" else "longcat.model.transformer"
    call(python, "-c", f"import {left}", folder=tmp_path)


def interpreter(wanted: str) -> str | None:
    """Find a Python of this version on the path or in pyenv."""
    of_pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{wanted}.*/bin/python{wanted}"))
    for found in (shutil.which(f"python{wanted}"), *map(str, of_pyenv)):
        if found and not subprocess.run([found, "-c", "pass"], capture_output=True, check=False).returncode:
            return found
    return None


@pytest.mark.parametrize("release", ["3.12", "3.13"])
def test_newer_pythons_run_stages_without_torch(built: Built, tmp_path: Path, release: str) -> None:
    """Without torch, whose CPU-only wheels are not on every index."""
    found = interpreter(release)
    if found is None:
        pytest.skip(f"there is no Python {release}")
    subprocess.run([found, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=300)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = "import importlib.metadata as m; print('\\n'.join(m.requires('longcat-cli')))"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", str(built.wheel)], check=True, env=clean_environment(), timeout=300)
    lines = [line for line in call(python, "-c", wanted, folder=tmp_path).splitlines() if "extra ==" not in line]
    plain = [line for line in lines if not line.startswith(("torch", "triton"))]
    subprocess.run([*pip, *plain], check=True, env=clean_environment(), timeout=900)
    call(python, "-c", WITHOUT_TORCH, folder=tmp_path)
    (tmp_path / "a.txt").write_text("The river runs slowly past the mill and on to the sea. " * 20)
    longcat = ["-m", "longcat.cli", "--store", "store", "-q"]
    call(python, *longcat, "data", "extract", "a.txt", "--name", "docs", folder=tmp_path)
    call(python, *longcat, "data", "dedup", "--documents", "docs", "--name", "unique", folder=tmp_path)
    assert "unique@1" in call(python, *longcat, "artifacts", "list", folder=tmp_path)


@pytest.mark.parametrize("tool", ["uv", "pipx"])
def test_it_installs_as_a_tool(built: Built, tmp_path: Path, tool: str) -> None:
    """In a separate environment, with its command on the path."""
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version(name)}\n" for name in ("torch", "triton")))
    helper = new_environment(tmp_path / "helper")
    pip_install(helper, tool)
    home = {"UV_TOOL_DIR": "uv", "UV_TOOL_BIN_DIR": "bin", "PIPX_HOME": "pipx", "PIPX_BIN_DIR": "bin"}
    environment = clean_environment(**{name: str(tmp_path / place) for name, place in home.items()})
    # uv does not read the settings of pip: pass a configured folder of wheels explicitly.
    folders = [word for place in os.environ.get("PIP_FIND_LINKS", "").split() for word in ("--find-links", place)]
    if tool == "uv":
        options = ["--constraints", str(constraints), *folders, "--python", sys.executable]
        command = [str(tmp_path / "helper" / "bin" / "uv"), "tool", "install", *options, str(built.wheel)]
    else:
        options = ["--python", sys.executable, f"--pip-args=--constraint {constraints}"]
        command = [str(helper), "-m", "pipx", "install", *options, str(built.wheel)]
    probe = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert probe.returncode == 0, probe.stderr
    assert (tmp_path / "bin" / "longcat").exists()
