"""The page about training runs: what is read, how it is reduced, what is drawn, and that it is safe and whole."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longcat.pipeline.artifact import Artifact, Manifest
from longcat.pipeline.errors import InputError, IntegrityError, MissingArtifactError, UsageError
from longcat.pipeline.printable import STEERING
from longcat.pipeline.store import Store
from longcat.stages.report.load import LoadHistory
from longcat.stages.report.metrics import read_metrics_files, read_run_log
from longcat.stages.report.page import ASSETS, render_page, safe_json
from longcat.stages.report.panels import sections
from longcat.stages.report.reduce import bends, reduced
from longcat.stages.report.runs import find_run
from longcat.stages.report.summary import configuration_table, figures


def titles(runs: list[Any]) -> list[str]:
    return [panel["title"] for section in sections(runs) for panel in section["panels"]]


def data_of(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        page.split('<script type="application/json" id="data">')[1].split("</script>", maxsplit=1)[0]
    )
    return found


def test_few_points_keep_every_spike_and_the_mean() -> None:
    steps, values = np.arange(1, 10_001), np.sin(np.arange(10_000) / 700)
    values[6543], values[200] = 50.0, math.nan
    curve = reduced(steps, values, 100)
    assert len(curve["x"]) == len(curve["y"]) == len(curve["low"]) == 100
    assert (max(curve["high"]), curve["x"][-1]) == (50.0, 10_000)
    assert np.mean(curve["y"]) == pytest.approx(np.nanmean(values), rel=1e-3)
    assert curve["high"][2] <= 1, "what is no number moves nothing"
    assert reduced(steps[:5], np.array([1.0, math.nan, 3.0, 4.0, math.inf]), 100) == {
        "x": [1, 2, 3, 4, 5],
        "y": [1, None, 3, 4, None],
    }


def test_tokens_are_kept_where_their_pace_changes() -> None:
    steps = np.arange(1, 101)
    tokens = np.where(steps <= 40, steps * 100, 4000 + (steps - 40) * 300).astype(float)
    assert bends(steps, tokens) == ([1, 40, 100], [100, 4000, 22_000])


def test_load_history_is_bounded_and_loses_no_slot() -> None:
    random = np.random.default_rng(0)
    history = LoadHistory([[1, 2, 3, 4]])
    given = random.integers(0, 9, (1000, 1, 4))
    for step, load in enumerate(given, start=1):
        history.add(step, load.tolist())
    assert len(history.ends) <= 240
    assert history.ends[-1] == 1000
    assert np.stack(history._bins).sum(axis=0).tolist() == given.sum(axis=0).tolist()
    width = history.ends[1] - history.ends[0]
    first = given[:width, 0].sum(axis=0)
    assert history.ratios()[0, :, 0].tolist() == pytest.approx((first / first.mean()).tolist())
    cells = np.frombuffer(base64.b64decode(history.encoded()), dtype=np.uint8).reshape(1, 4, -1)
    assert cells[0, :, 0] / 64 == pytest.approx(first / first.mean(), abs=1 / 64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"step": 3, "loss": 1', "metrics.jsonl:3: not a line of JSON"),
        ('{"loss": 1}', "metrics.jsonl:3: the line has no step"),
        ('{"step": 3, "loss": "low"}', "metrics.jsonl:3: .*'loss'"),
        (
            '{"step": 3, "active_experts": [1.0]}',
            "metrics.jsonl:3: .*'active_experts': 1 values, 3 in the lines before",
        ),
        ('{"step": 3, "expert_load": [[1, 2], [3]]}', "metrics.jsonl:3: "),
        ('{"step": 3, "expert_load": []}', "metrics.jsonl:3: "),
        ('{"step": 3, "stability": 4}', "metrics.jsonl:3: "),
        ('{"step": 3, "rewound": {}}', "metrics.jsonl:3: .*from_step"),
    ],
)
def test_a_damaged_line_is_one_clear_error(made_up: Any, metrics_file: Any, line: str, message: str) -> None:
    path = metrics_file(made_up(2))
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(IntegrityError, match=message):
        read_metrics_files([path], growing=True)


def test_the_unfinished_last_line_of_a_run_in_progress_is_no_damage(made_up: Any, metrics_file: Any) -> None:
    path = metrics_file(made_up(4))
    with path.open("a") as stream:
        stream.write('{"step": 5, "lo')
    loss = read_metrics_files([path], growing=True).get("loss")
    assert loss is not None
    assert loss[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(IntegrityError, match=r"metrics.jsonl:5"):
        read_metrics_files([path], growing=False)


def test_of_a_step_told_twice_the_later_stands(metrics_file: Any) -> None:
    lines = [{"step": step, "loss": loss} for step, loss in [(1, 5.0), (2, 9.0), (3, 9.5), (2, 4.0), (3, 3.0)]]
    loss = read_metrics_files([metrics_file(lines)], growing=False).get("loss")
    assert loss is not None
    assert (loss[0].tolist(), loss[1][:, 0].tolist()) == ([1, 2, 3], [5.0, 4.0, 3.0])


def test_a_run_log_gives_the_speed_and_damage_in_it_is_passed_over(tmp_path: Path) -> None:
    lines = ["nonsense", '{"event":"step","step":1,"seconds":2.0,"tokens_per_second":10}', "[]", '{"event":"step","st']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    speed, facts = read_run_log(tmp_path / "log.jsonl")
    assert speed.columns["tokens_per_second"].values.tolist() == [10.0]
    assert "mfu" not in speed.columns
    assert facts == {}


def test_everything_a_run_tells_is_drawn_and_nothing_else(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    make_checkpoint(made_up(40), name="rich")
    make_checkpoint(made_up(40, rich=False), name="plain", identifier="c0ffee0000000002")
    rich, plain = titles([find_run(store, "rich")]), titles([find_run(store, "plain")])
    for title in (
        "Loss of further tokens",
        "Spread of activated experts",
        "Load of the experts, layer 2",
        "Gradient RMS",
    ):
        assert title in rich
        assert title not in plain
    assert plain[:3] == ["Loss", "Gradient norm", "Learning rate"]
    assert plain[-4:] == ["Throughput", "Model FLOPs utilisation", "Memory", "Time of a step"]


def test_panels_hold_layers_targets_validation_and_marks(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    make_checkpoint(made_up(40), name="rich")
    run = find_run(store, "rich")
    panels = {panel["title"]: panel for section in sections([run]) for panel in section["panels"]}
    experts = panels["Activated FFN experts"]
    assert [line["name"] for line in experts["lines"]] == ["layer 0", "layer 1", "layer 2"]
    assert experts["targets"] == [{"value": 4, "name": "target Kₑ = 4"}]
    assert panels["Gradient ratio, balance over loss"]["targets"][0]["value"] == 0.1
    training, validation = panels["Loss"]["lines"]
    assert (len(training["x"]), validation["x"][:2], validation["points"]) == (40, [2, 4], True)
    assert (run.metrics.skipped, run.metrics.rewound) == ([13], [(20, 18, 16)])


def test_runs_laid_over_each_other_share_panels(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    make_checkpoint(made_up(40), name="one")
    make_checkpoint(made_up(60, seed=1, layers=2), name="two", identifier="c0ffee0000000002")
    runs = [find_run(store, name) for name in ("one", "two")]
    panels = {panel["title"]: panel for section in sections(runs) for panel in section["panels"]}
    one, two = panels["Activated FFN experts"]["lines"]
    assert (one["name"], two["name"], len(two["x"])) == ("one@1", "two@1", 60)
    first = next(iter(made_up(1, layers=2, seed=1)))["active_experts"]
    assert two["low"][0] <= two["y"][0] <= two["high"][0]
    assert len(first) == 2
    page = render_page(store, runs)
    assert page.count('class="run run-1"') >= 2
    assert [run["name"] for run in data_of(page)["runs"]] == ["one@1", "two@1"]


def test_figures_of_a_run(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    make_checkpoint(made_up(40), name="rich")
    found = figures(find_run(store, "rich"))
    lines = list(made_up(40))
    assert found["validation_loss"] == lines[-1]["validation_loss"]
    assert found["train_loss"] == pytest.approx(np.mean([line["loss"] for line in lines[-20:]]))
    assert found["perplexity"] == pytest.approx(math.exp(found["validation_loss"]))
    assert found["bits_per_token"] == pytest.approx(found["validation_loss"] / math.log(2))
    assert (found["steps"], found["skipped_steps"], found["rewinds"], found["total_tokens"]) == (40, 1, 1, 40 * 4096)
    assert found["peak_memory_bytes"] == 2_100_020_000


class _Reader(HTMLParser):
    """Elements of a page, and every address in it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def test_a_page_stands_alone_and_texts_from_outside_stay_texts(made_up: Any, store: Store, start_run: Any) -> None:
    evil = "</script><img src=x onerror=alert(1)>\u2028{{data}}\x1b[2J\u202e\x9b<!--"
    shown = "</script><img src=x onerror=alert(1)>\\u2028{{data}}\\x1b[2J\\u202e\\x9b<!--"
    lines = list(made_up(20))
    for line in lines:
        line["stability"]["gradient_rms"] = {evil: 1e-4}
    start_run("abcd00000000ffff", lines, name=evil)
    page = render_page(store, [find_run(store, "abcd")])
    reader = _Reader()
    reader.feed(page)
    assert "img" not in reader.elements
    assert reader.elements.count("script") == 2
    assert reader.addresses == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\((?!#)", page)
    assert "default-src 'none'" in page
    data = data_of(page)
    assert data["runs"][0]["name"] == f"{shown} (in progress)"
    assert shown in json.dumps(data["sections"], ensure_ascii=False).replace("\\\\", "\\")
    assert not STEERING.search(page)
    assert json.loads(safe_json({evil: [evil]})) == {evil: [evil]}


def test_a_page_of_a_long_run_is_small(made_up: Any, store: Store, start_run: Any) -> None:
    start_run("abcd00000000ffff", made_up(3000), name="long")
    page = render_page(store, [find_run(store, "long")])
    assert len(page) < 500_000
    lengths = {len(steps) for steps in data_of(page)["steps"]}
    assert max(lengths) == 480


def test_a_run_in_progress_goes_by_name_and_id(made_up: Any, store: Store, start_run: Any) -> None:
    lines = list(made_up(30, rich=False))
    start_run("abcd00000000ffff", lines[:10], name="mine", stretch="phase-2")
    start_run("abcd00000000ffff", lines[10:20], name="mine", stretch="phase-10")
    for word in ("mine", "abcd"):
        run = find_run(store, word)
        loss = run.metrics.get("loss")
        assert loss is not None
        assert loss[0].tolist() == list(range(1, 21))
        assert (run.experts, run.target_active_experts, run.identifier) == ((12, 6), 4, "abcd00000000ffff")
    start_run("abcd111111111111", lines[:10], name="other")
    with pytest.raises(UsageError, match="several runs in progress"):
        find_run(store, "abcd")
    with pytest.raises(MissingArtifactError, match="a run in progress goes by its id"):
        find_run(store, "nobody")


def test_what_was_not_trained_is_refused(store: Store, make_checkpoint: Any, start_run: Any) -> None:
    make_checkpoint(None, name="grown")
    with pytest.raises(InputError, match="grow trains nothing"):
        find_run(store, "grown")
    start_run("abcd00000000ffff", [], name="fresh")
    with pytest.raises(InputError, match="no step is recorded yet"):
        find_run(store, "fresh")


def test_a_metrics_file_is_a_run_too(made_up: Any, store: Store, metrics_file: Any, make_checkpoint: Any) -> None:
    run = find_run(store, str(metrics_file(made_up(5))))
    assert (run.label, run.artifact) == ("alone", None)
    made = make_checkpoint(made_up(5), name="one")
    assert find_run(store, str(made.path / "metrics.jsonl")).artifact == made
    assert titles([run])


def test_what_a_page_says_of_a_configuration_is_no_python(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    made = make_checkpoint(made_up(5), name="rich")
    path = made.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"] = {"flag": True, "nothing": None, "names": ["a", "b"], "empty": [], "seed": 1234567}
    rows = dict(configuration_table([replace(find_run(store, "rich"), artifact=rewritten(made, manifest))]))
    assert [rows[key] for key in manifest["config"]] == [["true"], ["none"], ["a, b"], ["none"], ["1234567"]]


def rewritten(made: Artifact, manifest: dict[str, Any]) -> Artifact:
    return Artifact(made.path, Manifest.model_validate(manifest))


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
needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")


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
def test_on_paper_everything_is_unfolded_light_and_as_wide_as_the_sheet(
    made_up: Any, store: Store, make_checkpoint: Any, tmp_path: Path
) -> None:
    """The page is told of a print as a browser tells it, and looked at while that lasts and afterwards."""
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
    """The elements that a panel draws for a line, in order; positions are the values themselves."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here to run the script of the page")
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


def test_the_one_point_that_a_log_axis_has_room_for_is_a_dot() -> None:
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


def test_a_band_breaks_off_where_its_line_does() -> None:
    line = {"y": [2, 2, None, 2, 2], "low": [1, 1, None, 0, 1], "high": [3, 3, None, 3, 3]}
    band = next(given["d"] for _, given in drawn(line, log=True) if given.get("class") == "band")
    assert band == "M1.0 3.0L2.0 3.0L2.0 1.0L1.0 1.0ZM4.0 3.0L5.0 3.0L5.0 1.0L4.0 0.0Z"
