"""Each `How to add` section of docs/architecture.md, followed in a copy of the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, SHELL, Block, blocks, commands
from tests.docs.follow import call, changed, copy_repository, follow

PAGE = ROOT / "docs" / "architecture.md"
HEADING = re.compile(r"^#{2,3} (.+)$", re.MULTILINE)
# Inline code: `folder/` and `folder/file.py`, or a module by its dotted name.
NAMED_FILE = re.compile(r"`((?:kernels|longcat_cli|model|pipeline|stages|tests|docs|benchmarks)/[\w./]*)`")
NAMED_MODULE = re.compile(r"`((?:kernels|model|pipeline|stages)\.[\w.]+)`")

LINT_IMPORTS = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(cache_dir=None, no_cache=True))"


def sections() -> dict[str, list[Block]]:
    """Blocks by heading, for headings with a file or a diff."""
    text = PAGE.read_text(encoding="utf-8")
    begins = [(text.count("\n", 0, found.start()) + 1, found[1]) for found in HEADING.finditer(text)]
    found: dict[str, list[Block]] = {}
    for block in blocks(PAGE):
        heading = [name for line, name in begins if line < block.line][-1:]
        found.setdefault("".join(heading), []).append(block)
    return {name: each for name, each in found.items() if any(b.module or b.language == "diff" for b in each)}


SECTIONS = sections()


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Copy of the repository after all sections, and the files written or changed."""
    root = tmp_path_factory.mktemp("architecture") / "longcat"
    copy_repository(root)
    done = [follow(block, root) for section in SECTIONS.values() for block in section]
    return root, sorted({path for path in done if path})


def test_the_page_shows_every_seam() -> None:
    names = " ".join(SECTIONS)
    for seam in ("stage", "filter family", "input format", "kernel", "attention", "embedding"):
        assert seam in names


@pytest.mark.parametrize("section", SECTIONS)
def test_following_a_section_passes_its_tests(section: str, followed: tuple[Path, list[Path]]) -> None:
    tests = [command.words for block in SECTIONS[section] if block.language in SHELL for command in commands(block)]
    assert tests, f"{section}: the section has no test"
    for program, *arguments in tests:
        assert program == "pytest"
        call(followed[0], "-m", "pytest", "-p", "no:cacheprovider", *arguments)


def test_what_the_page_adds_passes_the_checks(followed: tuple[Path, list[Path]]) -> None:
    root, paths = followed
    python = [str(path.relative_to(root)) for path in paths if path.suffix == ".py"]
    call(root, "-m", "ruff", "check", "--no-cache", *python)
    call(root, "-m", "ruff", "format", "--no-cache", "--check", *python)
    call(root, "-c", LINT_IMPORTS)


@pytest.mark.parametrize("name", sorted(set(NAMED_FILE.findall(PAGE.read_text(encoding="utf-8")))))
def test_mentioned_files_exist(name: str, followed: tuple[Path, list[Path]]) -> None:
    assert (ROOT / name).exists() or (followed[0] / name).exists()


@pytest.mark.parametrize("name", sorted(set(NAMED_MODULE.findall(PAGE.read_text(encoding="utf-8")))))
def test_mentioned_modules_exist(name: str, followed: tuple[Path, list[Path]]) -> None:
    """The last part of a dotted name may be an attribute of the module."""
    parts = name.split(".")
    path = followed[0].joinpath(*parts)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return
    module = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
    assert re.search(rf"\b{parts[-1]}\b", module.read_text(encoding="utf-8"))


def test_a_diff_that_does_not_match_is_an_error() -> None:
    assert changed("a\nb\nc\n", " a\n+x\n b\n", "page") == "a\nx\nb\nc\n"
    assert changed("a\nb\nc\n", "-b\n+x\n", "page") == "a\nx\nc\n"
    for text in ("b\na\n", "a\nb\na\nb\n"):
        with pytest.raises(AssertionError, match=r"page: these lines are [02] times in the file, not once"):
            changed(text, " a\n+x\n b\n", "page")
