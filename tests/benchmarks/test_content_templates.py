"""Labelled pages of our own: the same on every run, truths of the text alone, and how they are extracted."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from longcat.stages.data.extract.html import extract_page

FOLDER = Path(__file__).parents[2] / "benchmarks"
FLOOR = 0.93


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """The scripts import their siblings by bare names; these imports are undone after the test."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if name.startswith("content_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def templates(benchmarks: None) -> ModuleType:
    return importlib.import_module("content_templates")


@pytest.fixture(scope="module")
def pages(templates: ModuleType) -> list[Any]:
    return list(templates.pages(2, seed=3))


def test_the_same_seed_gives_the_same_bytes(templates: ModuleType, pages: list[Any], tmp_path: Path) -> None:
    for name in "ab":
        templates.write(list(templates.pages(2, seed=3)), tmp_path / f"{name}.warc.gz", tmp_path / f"{name}.jsonl")
    for suffix in ("warc.gz", "jsonl"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert [page.html for page in templates.pages(2, seed=4)] != [page.html for page in pages]


def test_the_text_is_what_the_template_marks(templates: ModuleType) -> None:
    markup = (
        "<nav>Menu</nav><!--text--><h1>Title</h1><p>One <b>two</b><br>three<!--not--> <a>#</a><!--/not--></p>"
        "<pre>a\n  b</pre><!--say $x$--><!--/text--><p>Share</p>"
    )
    assert templates.text_of(markup) == "Title\nOne two\nthree\na\n  b\n$x$"


def test_every_template_is_a_site_with_a_text_and_no_marks(templates: ModuleType, pages: list[Any]) -> None:
    files = {path.stem for path in (FOLDER / "content_templates" / "pages").glob("[!_]*.html")}
    assert files == set(templates.TEMPLATES) and len(files) > 20
    for page in pages:
        html, text = page.html, page.text
        assert not templates.MARKS.search(html) and len(text) > 100
        words = templates.chrome()[page.language]
        assert not any(words[key] in text for key in ("cookies", "newsletter_text", "paywall", "rights"))


def test_languages_are_complete(templates: ModuleType) -> None:
    assert len(templates.chrome()) == 17
    for language, words in templates.chrome().items():
        assert all(words.values()), language
        found = templates.texts(language)
        assert set(found) == {"titles", "sentences", "comments", "items", "names"}
        assert all(len(lines) == len(set(lines)) >= 4 for lines in found.values())
        assert len(found["sentences"]) >= 14


def test_our_text_of_a_sample_is_close_to_the_truth(pages: list[Any]) -> None:
    word_f1 = importlib.import_module("content_samples").word_f1
    values = [word_f1(extract_page(page.html.encode(), "utf-8").text, page.text) for page in pages]
    assert sum(values) / len(values) > FLOOR


def test_the_documentation_shows_the_text_of_today(benchmarks: None) -> None:
    examples = importlib.import_module("content_examples")
    shown = (FOLDER.parent / "docs" / examples.NAME).read_text(encoding="utf-8")
    assert shown == examples.document(), "run `python benchmarks/content_templates.py --examples docs`"
    assert len(examples.EXAMPLES) == 10
    for template, _, _ in examples.EXAMPLES:
        assert (FOLDER.parent / "docs" / examples.IMAGES / f"{template}.png").stat().st_size < 60_000
