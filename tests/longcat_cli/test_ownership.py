"""`longcat doctor` reports the owner of the import name and conflicts, and an ImportError is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from longcat.cli import checks
from longcat.cli.app import run
from longcat.cli.ownership import Ownership, ownership


def distribution(place: Path, name: str, *files: str, version: str = "1.0") -> None:
    """Make an installed distribution with `files`, like pip."""
    info = place / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in (*files, f"{info.name}/METADATA")))
    for file in files:
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).touch()


def check(monkeypatch: pytest.MonkeyPatch, place: Path) -> checks.Check:
    known: Ownership = ownership([str(place)])
    monkeypatch.setattr(checks, "ownership", lambda: known)
    return checks._ownership()


def test_only_our_distribution_is_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "longcat-cli", "longcat/__init__.py", "longcat/cli/app.py")
    distribution(tmp_path, "kernels", "kernels/__init__.py", "../../../bin/kernels")
    found = check(monkeypatch, tmp_path)
    assert (found.state, found.remedy) == ("ok", "")
    assert "owned by longcat-cli 1.0" in found.found


def test_an_editable_installation_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "longcat_cli", "_longcat_cli.pth")
    assert check(monkeypatch, tmp_path).state == "ok"


def test_another_owner_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "longcat-cli", "longcat/__init__.py")
    distribution(tmp_path, "longcat-sdk", "longcat/__init__.py", "longcat/client.py")
    found = check(monkeypatch, tmp_path)
    assert found.state == "problem"
    assert "longcat-sdk 1.0" in found.found
    assert found.remedy == "pip uninstall longcat-sdk, then reinstall longcat-cli"


def test_an_older_version_of_ours_elsewhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "longcat-cli", "longcat/__init__.py", version="0.2.0")
    distribution(tmp_path / "user", "longcat-cli", "kernels/__init__.py", "model/transformer.py", version="0.0.9")
    known = ownership([str(tmp_path), str(tmp_path / "user")])
    monkeypatch.setattr(checks, "ownership", lambda: known)
    found = checks._ownership()
    assert found.state == "problem"
    assert f"longcat-cli 0.0.9 in {tmp_path / 'user'} owns names such as kernels" in found.found
    assert "pip uninstall longcat-cli" in found.remedy


def test_leftovers_of_an_older_version_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "longcat-cli", "longcat/__init__.py")
    for file in ("kernels/mla_attention/__init__.py", "model/transformer.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = check(monkeypatch, tmp_path)
    assert found.state == "problem"
    assert f"{tmp_path / 'kernels'}, {tmp_path / 'model'}" in found.found


def test_a_clone_on_the_module_path_is_not_an_older_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = Path(checks.__file__).resolve().parents[1]
    distribution(tmp_path, "longcat-cli", "longcat/__init__.py")
    known = ownership([str(tmp_path), str(clone)])
    monkeypatch.setattr(checks, "ownership", lambda: known)
    assert checks._ownership().state == "ok"


def test_other_distributions_with_such_names_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "longcat-cli", "longcat/__init__.py")
    distribution(tmp_path, "tidy-models", "model/transformer.py", "model/__init__.py")
    assert check(monkeypatch, tmp_path).state == "ok"


def test_no_installed_distribution_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(monkeypatch, tmp_path).state == "note"


@pytest.mark.parametrize("missing", ["typer", "longcat.cli.train", "torch"])
def test_a_broken_installation_is_one_line(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from longcat.cli.entry import main; main()"
    command = [sys.executable, "-P", "-c", code, "model", "describe", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith("longcat: the installation is broken: ")
    assert missing in line
    assert "longcat doctor" in line


def test_the_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "longcat.cli.checks", None)
    assert run(["--debug", "doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err
