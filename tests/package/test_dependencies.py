"""Declared ranges of dependencies: installed versions are in range, and no version with a known vulnerability is."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(text)
    for text in [
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    ]
]
# Last vulnerable release of each advisory.
OPEN = [
    ("aiohttp", "3.14.2"),  # CVE-2026-69244, out-of-bounds read in the response parser
    ("aiohttp", "3.13.3"),  # CVE-2026-34513 and nine more
    ("brotli", "1.1.0"),  # CVE-2025-6176, unbounded output
    ("fastapi", "0.109.0"),  # CVE-2024-24762
    ("h11", "0.14.0"),  # CVE-2025-43859, chunked bodies with a wrong end
    ("httpcore", "1.0.8"),  # allows that h11
    ("jinja2", "3.1.5"),  # CVE-2025-27516, sandbox escape by |attr
    ("jinja2", "3.1.4"),  # CVE-2024-56326, CVE-2024-56201
    ("mkdocs-material", "9.7.6"),  # CVE-2026-73295
    ("mkdocs-material", "9.5.31"),  # script in search results
    ("orjson", "3.11.5"),  # CVE-2025-67221, unbounded nesting
    ("protego", "0.6.1"),  # CVE-2026-55520, wildcards of robots.txt
    ("protego", "0.6.2"),  # wildcards still take more than linear time
    ("protobuf", "6.33.4"),  # CVE-2026-0994
    ("psutil", "5.6.5"),  # CVE-2019-18874
    ("pyarrow", "23.0.0"),  # CVE-2026-25087
    ("pydantic", "2.3.0"),  # CVE-2024-3772
    ("pytest", "9.0.2"),  # CVE-2025-71176
    ("pyyaml", "5.3.1"),  # CVE-2020-14343
    ("ray", "2.54.1"),  # GHSA-mw35-8rx3-xf9r, code execution from Parquet metadata
    ("ray", "2.51.1"),  # CVE-2025-62593
    ("starlette", "1.3.0"),  # CVE-2026-54283
    ("starlette", "1.0.0"),  # CVE-2026-48710, a path in the Host header
    ("starlette", "0.49.0"),  # CVE-2025-62727
    ("torch", "2.12.0"),  # CVE-2025-3000
    ("transformers", "5.9.0"),  # CVE-2026-9856, path traversal
    ("transformers", "5.4.0"),  # CVE-2026-5241, code execution despite the setting
    ("uvicorn", "0.11.6"),  # CVE-2020-7694
    ("werkzeug", "3.1.5"),  # CVE-2026-27199
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_installed_versions_are_in_the_declared_range(requirement: Requirement) -> None:
    if requirement.marker is not None and not requirement.marker.evaluate():
        pytest.skip("not for this platform")
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        pytest.skip("not installed")
    assert requirement.specifier.contains(installed, prereleases=True), f"{installed} is installed"


@pytest.mark.parametrize(("name", "release"), OPEN)
def test_no_vulnerable_release_is_allowed(name: str, release: str) -> None:
    found = [requirement for requirement in REQUIREMENTS if requirement.name.lower() == name]
    assert found, f"{name} is not declared"
    assert not any(requirement.specifier.contains(release) for requirement in found)


def test_every_dependency_has_a_lower_bound() -> None:
    """Without one, a resolver may select the first release ever."""
    unbound = [
        requirement.name
        for requirement in REQUIREMENTS
        if requirement.name != PROJECT["name"]
        and not any(part.operator in (">=", "==") for part in requirement.specifier)
    ]
    assert unbound == []
