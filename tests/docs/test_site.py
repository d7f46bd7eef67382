"""The built documentation: no requests to other hosts, and the copy button copies only commands."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.site import build_site

# Replaces the page by what the copy button would copy: the material theme marks the block, then reads its text.
PROBE = """<script>addEventListener("load", () => {
  const shown = document.createElement("pre")
  for (const code of document.querySelectorAll("pre code")) {
    code.setAttribute("data-md-copying", "")
    shown.textContent += code.innerText.trimEnd() + "\\n"
    code.removeAttribute("data-md-copying")
  }
  document.body.replaceChildren(shown)
})</script></body>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    build_site(ROOT, folder)
    return folder


def test_no_page_loads_anything_from_other_hosts(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 25
    loads = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not [tag for tag in loads.findall(text) if 'rel="canonical"' not in tag], page
        assert 'class="mermaid"' not in text, f"{page}: the theme would fetch a script to draw it"
    for style in styles:
        assert not re.search(r"(?:url\([\"']?|@import [\"'])(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_links_between_pages_are_valid() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_copy_button_copies_only_commands(site: Path) -> None:
    copies = {}
    for name in ("artifacts", "benchmarks-data", "filter"):
        page = site / name / "index.html"
        probe = page.with_name("probe.html")
        probe.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=5000",
            "--dump-dom",
        ]
        done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        copies[name] = html.unescape(done.stdout[done.stdout.index("<body") :])
    assert "longcat artifacts verify\nlongcat artifacts fsck --repair\n" in re.sub(r" +\n", "\n", copies["artifacts"])
    assert "python benchmarks/data_filter.py CORPUS --peer-python PEER" in copies["benchmarks-data"]
    assert "$ " not in copies["benchmarks-data"]
    assert "documents per CPU second" not in copies["benchmarks-data"]
    assert "# what `longcat artifacts path filtered` prints" in copies["filter"]  # remarks in other languages stay
