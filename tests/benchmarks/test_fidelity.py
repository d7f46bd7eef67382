"""Fidelity to code and tables: what the benchmark reads of Markdown, and every viewer of code it knows."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
CODE = """def area(width, height=1):
    # Size of a field.

    if width < 0 & height:
\treturn {"a|b": [1, 2]}
    ...
"""


@pytest.fixture(scope="module")
def fidelity() -> Iterator[ModuleType]:
    """The script, which imports its siblings by bare names; these imports are undone after the test."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("data_fidelity")
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if name.startswith(("data_fidelity", "fidelity_")):
            del sys.modules[name]


def test_every_viewer_shows_the_code_it_was_given(fidelity: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "field.py").write_text(CODE * 12)
    pages = list(fidelity.viewer_pages(tmp_path, 1))
    assert len(pages) > 15
    for page in pages:
        found = fidelity.code_of(fidelity.ours(page.html))
        assert fidelity.normal(found) == fidelity.normal([CODE * 12]), page.name


def test_tables_and_code_of_markdown(fidelity: ModuleType) -> None:
    text = "```py\n| no | table |\n```\n\n| A | `b|c` |\n|---|---|\n| 1\\|2 |  |\n\nx | y\n"
    assert fidelity.code_of(text) == ["| no | table |\n"]
    assert fidelity.tables_of(text.replace("b|c", "b\\|c")) == [[["A", "b|c"], ["1|2", ""]]]
