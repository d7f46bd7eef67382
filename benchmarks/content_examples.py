"""Ten pages as they look and as they are extracted, for `docs/extract-examples.md`.

`content_templates.py --examples docs` writes the page; with `--browser chromium` also its pictures, which need
pngquant and fonts of all scripts (Debian: fonts-noto-core, fonts-noto-cjk).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from content_samples import word_f1
from content_templates import Page, render

from longcat.stages.data.extract.html import extract_page

NAME, IMAGES = "extract-examples.md", "images/extract"
EXAMPLES = (
    ("news", "en", "Article of a news site, in English"),
    ("discourse", "ru", "Forum, in Russian"),
    ("woocommerce-product", "ja", "Product of a shop, in Japanese"),
    ("magento-listing", "ar", "Listing of a shop, in Arabic"),
    ("mkdocs-material", "hi", "Page of a documentation, in Hindi"),
    ("stackexchange", "el", "Question with answers, in Greek"),
    ("wikipedia", "he", "Encyclopedia, in Hebrew"),
    ("recipe", "th", "Recipe, in Thai"),
    ("blogger", "ko", "Blog with comments, in Korean"),
    ("cookie-dialog", "zh", "Article with a cookie dialog and hidden text, in Chinese"),
)
NUMBER = 7  # of the page of each site
WIDTH, LEAST_HEIGHT, HEIGHT, SCALE, COLOURS = 720, 400, 1500, 0.6667, "12"
INTRODUCTION = """# Pages and their text

Ten pages as a browser shows them, and the text of the document that `longcat data extract` makes of exactly these bytes
with the default configuration. The pages are some of [our own](benchmarks-data.md#pages-of-our-own): own texts in the
markup of common site generators, whose sentences were put together at random. Long pages are cut at the bottom of the
picture, and pictures in them are grey. F1 compares the words of the text with those that belong to it.

`python benchmarks/content_templates.py --examples docs` writes this page again; a test compares it with what the
program gives today.
"""
GREY = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'%3E"
    "%3Crect width='100%25' height='100%25' fill='%23ccd'/%3E%3C/svg%3E"
)
MEASURE = (
    '<script>addEventListener("load", () => '
    'document.body.setAttribute("data-height", document.documentElement.scrollHeight))</script>'
)
LOADED = re.compile(r'src="/[^"]*"')


def example(template: str, language: str) -> Page:
    """The page that the documentation shows."""
    return render(template, NUMBER, language)


def document() -> str:
    """The page of the documentation."""
    return INTRODUCTION + "".join(_section(*each) for each in EXAMPLES)


def _section(template: str, language: str, title: str) -> str:
    page = example(template, language)
    found = extract_page(page.html.encode(), "utf-8")
    fence = "`" * (1 + max([3, *(len(marks) for marks in re.findall(r"`+", found.text))]))
    return (
        f"\n## {title}\n\nTemplate `{template}`, `page_kind` {found.kind}, `extraction_confidence` {found.confidence}, "
        f'word F1 {word_f1(found.text, page.text):.3f}.\n\n<div class="grid" markdown>\n\n'
        f"![{title}, in a browser]({IMAGES}/{template}.png)\n\n{fence}markdown\n{found.text}\n{fence}\n\n</div>\n"
    )


def write(docs: Path, browser: str | None) -> None:
    """Write the page, and with a browser its pictures."""
    (docs / NAME).write_text(document(), encoding="utf-8")
    if browser:
        (docs / IMAGES).mkdir(parents=True, exist_ok=True)
        for template, language, _ in EXAMPLES:
            _picture(example(template, language), browser, docs / IMAGES / f"{template}.png")


def _picture(page: Page, browser: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        source.write_text(LOADED.sub(f'src="{GREY}"', page.html) + MEASURE, encoding="utf-8")
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
        narrow = f"--window-size={WIDTH},{LEAST_HEIGHT}"
        measured = _run(browser, *options, narrow, "--virtual-time-budget=2000", "--dump-dom", source.as_uri())
        found = re.search(r'data-height="(\d+)"', measured)
        assert found, f"{browser} did not run the script that measures {page.id}"
        height = max(LEAST_HEIGHT, min(HEIGHT, int(found[1])))
        size, scale = f"--window-size={WIDTH},{height}", f"--force-device-scale-factor={SCALE}"
        _run(browser, *options, size, scale, f"--screenshot={shot}", source.as_uri())
        _run("pngquant", "--force", "--strip", "--nofs", "--output", str(target), COLOURS, str(shot))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
