"""The page as drawn and printed by a browser, and its script alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.store import Store
from longcat.stages.report.page import ASSETS, render_page
from longcat.stages.report.panels import sections
from longcat.stages.report.runs import find_run


def titles(runs: list[Any]) -> list[str]:
    return [panel["title"] for section in sections(runs) for panel in section["panels"]]


CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser installed")


def browse(page: Path, *arguments: str) -> str:
    command = [*CHROMIUM, f"--user-data-dir={page.parent / 'profile'}", *arguments, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@needs_browser
def test_a_browser_draws_every_panel(made_up: Any, store: Store, make_checkpoint: Any, tmp_path: Path) -> None:
    make_checkpoint(made_up(40), name="rich")
    runs = [find_run(store, "rich")]
    page = tmp_path / "page.html"
    page.write_text(render_page(store, runs), encoding="utf-8")
    shown = browse(page, "--dump-dom")
    drawn = re.findall(r'<svg[^>]*aria-label="([^"]+)"', shown)
    assert drawn == titles(runs)
    assert shown.count('<path class="line"') >= len(drawn) - 3


@needs_browser
def test_print_is_expanded_light_and_as_wide_as_the_sheet(
    made_up: Any, store: Store, make_checkpoint: Any, tmp_path: Path
) -> None:
    """The page gets the print events of a browser and is inspected between and after them."""
    make_checkpoint(made_up(40), name="rich")
    page = tmp_path / "page.html"
    look = """<script>
    const seen = () => ({
      open: [...document.querySelectorAll("details")].map((d) => d.open),
      theme: document.documentElement.dataset.theme,
      widths: [...document.querySelectorAll(".plot svg")].map((s) => Number(s.getAttribute("width"))),
    });
    setTheme(true);
    const report = { before: seen() };
    dispatchEvent(new Event("beforeprint"));
    report.during = seen();
    dispatchEvent(new Event("afterprint"));
    report.after = seen();
    const told = { id: "seen", textContent: JSON.stringify(report) };
    document.body.append(Object.assign(document.createElement("pre"), told));
    </script></body>"""
    page.write_text(render_page(store, [find_run(store, "rich")]).replace("</body>", look), encoding="utf-8")
    shown = browse(page, "--window-size=1500,1000", "--dump-dom")
    found = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', shown)[1])  # type: ignore[index]
    before, during, after = (found[when] for when in ("before", "during", "after"))
    assert (set(before["open"]), set(during["open"]), set(after["open"])) == ({False}, {True}, {False})
    assert (before["theme"], during["theme"], after["theme"]) == ("dark", "light", "dark")
    assert max(during["widths"]) <= 700
    assert min(during["widths"]) < 340 < min(before["widths"]), "two panels beside each other on paper"
    assert len(during["widths"]) == len(before["widths"])
    assert after["widths"] == before["widths"]


def test_print_rules() -> None:
    css = (ASSETS / "page.css").read_text(encoding="utf-8")
    rules = css.partition("@media print {")[2]
    assert "print-color-adjust: exact" in rules
    assert re.search(r"h2[^{]*\{ break-after: avoid", rules)
    hidden = next(line for line in rules.splitlines() if line.rstrip().endswith("display: none; }"))
    assert {".controls", ".panel .head button", ".panel .head select"} <= {
        part.strip() for part in hidden[:-20].split(",")
    }
    assert not re.search(r"\.swatch|\.legend \{[^}]*none", hidden)


DRAW = """
const view = { axis: "step", domain: null, smooth: 0, dark: false, hiddenRuns: new Set() };
const data = { runs: [{ steps: [1, 100], tokens: [1, 100], skipped: [], rewound: [] }] }, panels = [];
const position = (run, step) => step;
const document = { createElementNS: (_, name) => ({
  name, attributes: {}, below: [],
  setAttribute(key, value) { this.attributes[key] = value; },
  append(...nodes) { this.below.push(...nodes); },
}) };
"""


def drawn(line: dict[str, Any], *, log: bool) -> list[tuple[str, dict[str, Any]]]:
    """Elements drawn by a panel for a line, in order; positions equal the values."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node installed to run the script of the page")
    scripts = "".join((ASSETS / name).read_text(encoding="utf-8") for name in ("scales.js", "lines.js"))
    given = {"x": list(range(1, len(line["y"]) + 1)), "run": 0, "hue": "run", "name": "line", **line}
    code = f"""
    const panel = Object.create(LinesPanel.prototype), line = {json.dumps(given)}, group = make("g");
    const same = (value) => value;
    same.invert = () => 0.001;
    Object.assign(panel, {{ panel: {{ smooth: false, targets: [] }}, log: {json.dumps(log)}, x: same, y: same }});
    panel.prepared = [panel.prepare(line)];
    panel.drawLine(group, panel.prepared[0]);
    console.log(JSON.stringify(group.below.map((node) => [node.name, node.attributes])));
    """
    done = subprocess.run(
        [node, "-"], input=DRAW + scripts + code, capture_output=True, text=True, timeout=60, check=True
    )
    return [(name, attributes) for name, attributes in json.loads(done.stdout)]


def dots(line: dict[str, Any], *, log: bool = False) -> list[tuple[float, float]]:
    found = drawn(line, log=log)
    return [(float(given["cx"]), float(given["cy"])) for name, given in found if name == "circle"]


def test_a_single_point_on_a_log_axis_is_a_dot() -> None:
    line = {"y": [0, 0.195]}
    assert dots(line, log=True) == [(2, 0.2)]  # to a tenth of a pixel
    assert dots(line, log=False) == []


def test_points_between_gaps_are_dots_and_longer_stretches_are_curves() -> None:
    line = {"y": [5, None, 4, 3, None, None, 2, None, 1]}
    assert dots(line) == [(1, 5), (7, 2), (9, 1)]
    (path,) = [given["d"] for name, given in drawn(line, log=False) if name == "path"]
    assert path == "M1.0 5.0M3.0 4.0L4.0 3.0M7.0 2.0M9.0 1.0"
    assert dots({"y": [7]}) == [(1, 7)]
    assert dots({"y": [None]}) == []
    assert dots({"y": [-1, 5, -1, 5, 6]}, log=True) == [(2, 5)]


def test_measured_points_stay_dots() -> None:
    assert dots({"y": [0, 2, 3], "points": True}, log=True) == [(2, 2), (3, 3)]


def test_a_band_has_the_gaps_of_its_line() -> None:
    line = {"y": [2, 2, None, 2, 2], "low": [1, 1, None, 0, 1], "high": [3, 3, None, 3, 3]}
    band = next(given["d"] for _, given in drawn(line, log=True) if given.get("class") == "band")
    assert band == "M1.0 3.0L2.0 3.0L2.0 1.0L1.0 1.0ZM4.0 3.0L5.0 3.0L5.0 1.0L4.0 0.0Z"
