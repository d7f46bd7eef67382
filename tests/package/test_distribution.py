"""Contents of the source distribution and of the wheel; both contain the same code."""

from __future__ import annotations

import email
import tarfile
import zipfile
from pathlib import Path

from tests.package.conftest import ROOT, Built

SOURCES = {"cli": "longcat_cli", "kernels": "kernels", "model": "model", "pipeline": "pipeline", "stages": "stages"}


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.CRC for info in archive.infolist()}


def code_files() -> set[str]:
    """Every file of the folders, by its name in the wheel."""
    source = ROOT / "src" / "longcat"
    found = {f"longcat/{path.name}" for path in source.iterdir() if path.is_file()}
    for name in SOURCES:
        folder = source / name
        files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        found |= {f"longcat/{name}/{path.relative_to(folder).as_posix()}" for path in files}
    return found


def test_links_point_to_the_top_level_folders() -> None:
    if (ROOT / "src" / "longcat" / "stages").is_symlink():  # a source distribution has folders instead of links
        for name, folder in SOURCES.items():
            assert (ROOT / "src" / "longcat" / name).resolve() == (ROOT / folder).resolve()


def test_the_wheel_has_one_top_level_name_with_all_files(built: Built) -> None:
    names = set(contents(built.wheel))
    described = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - described == code_files()
    for data in (
        "stages/data/text/language/lid.176.ftz",
        "stages/recipes/demo.yaml",
        "model/presets/tiny.yaml",
        "py.typed",
    ):
        assert f"longcat/{data}" in names


def test_the_wheel_is_the_same_from_the_tree_and_from_the_source_distribution(built: Built) -> None:
    assert contents(built.wheel) == contents(built.direct_wheel)


def test_the_source_distribution_can_build_test_and_document(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("Makefile", "mkdocs.yml", "pyproject.toml", "README.md", "LICENSE", ".ci/run", "docs/index.md"):
        assert path in inside, path
    for folder in ("docs", "tests", "benchmarks"):
        here = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {path for path in here if "__pycache__" not in path and ".pytest_cache" not in path} <= inside
    assert not inside & set(SOURCES.values())


def test_metadata_has_command_licences_and_python_versions(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        assert "longcat = longcat.cli." in archive.read(f"{folder}/entry_points.txt").decode()
        for licence in metadata.get_all("License-File", []):
            assert archive.read(f"{folder}/licenses/{licence}")
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-3.0"
    assert {"LICENSE", "src/longcat/stages/data/text/language/NOTICE.md"} == set(metadata.get_all("License-File", []))
    classifiers = metadata.get_all("Classifier", [])
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
