"""The report page of training runs: reading, reduction, drawing, and safety."""

from __future__ import annotations

import base64
import json
import math
import re
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
from longcat.stages.report.page import render_page, safe_json
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
    assert curve["high"][2] <= 1, "non-numbers change nothing"
    assert reduced(steps[:5], np.array([1.0, math.nan, 3.0, 4.0, math.inf]), 100) == {
        "x": [1, 2, 3, 4, 5],
        "y": [1, None, 3, 4, None],
    }


def test_tokens_are_kept_where_their_rate_changes() -> None:
    steps = np.arange(1, 101)
    tokens = np.where(steps <= 40, steps * 100, 4000 + (steps - 40) * 300).astype(float)
    assert bends(steps, tokens) == ([1, 40, 100], [100, 4000, 22_000])


def test_load_history_is_bounded_and_keeps_all_slots() -> None:
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
            "metrics.jsonl:3: .*'active_experts': 1 values, 3 in earlier lines",
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


def test_an_incomplete_last_line_of_a_run_in_progress_is_not_damage(made_up: Any, metrics_file: Any) -> None:
    path = metrics_file(made_up(4))
    with path.open("a") as stream:
        stream.write('{"step": 5, "lo')
    loss = read_metrics_files([path], growing=True).get("loss")
    assert loss is not None
    assert loss[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(IntegrityError, match=r"metrics.jsonl:5"):
        read_metrics_files([path], growing=False)


def test_the_later_line_of_a_repeated_step_is_used(metrics_file: Any) -> None:
    lines = [{"step": step, "loss": loss} for step, loss in [(1, 5.0), (2, 9.0), (3, 9.5), (2, 4.0), (3, 3.0)]]
    loss = read_metrics_files([metrics_file(lines)], growing=False).get("loss")
    assert loss is not None
    assert (loss[0].tolist(), loss[1][:, 0].tolist()) == ([1, 2, 3], [5.0, 4.0, 3.0])


def test_a_run_log_gives_the_speed_and_its_damaged_lines_are_skipped(tmp_path: Path) -> None:
    lines = ["nonsense", '{"event":"step","step":1,"seconds":2.0,"tokens_per_second":10}', "[]", '{"event":"step","st']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    speed, facts = read_run_log(tmp_path / "log.jsonl")
    assert speed.columns["tokens_per_second"].values.tolist() == [10.0]
    assert "mfu" not in speed.columns
    assert facts == {}


def test_all_recorded_fields_are_drawn_and_no_others(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    make_checkpoint(made_up(40), name="rich")
    make_checkpoint(made_up(40, rich=False), name="plain", identifier="c0ffee0000000002")
    rich, plain = titles([find_run(store, "rich")]), titles([find_run(store, "plain")])
    for title in (
        "MTP loss",
        "Spread of activated experts",
        "Load of the experts, layer 2",
        "Gradient RMS",
    ):
        assert title in rich
        assert title not in plain
    assert plain[:3] == ["Loss", "Gradient norm", "Learning rate"]
    assert plain[-4:] == ["Throughput", "Model FLOPs utilisation", "Memory", "Time per step"]


def test_panels_have_layers_targets_validation_and_marks(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    make_checkpoint(made_up(40), name="rich")
    run = find_run(store, "rich")
    panels = {panel["title"]: panel for section in sections([run]) for panel in section["panels"]}
    experts = panels["Activated FFN experts"]
    assert [line["name"] for line in experts["lines"]] == ["layer 0", "layer 1", "layer 2"]
    assert experts["targets"] == [{"value": 4, "name": "target Kₑ = 4"}]
    assert panels["Gradient ratio, balance loss to loss"]["targets"][0]["value"] == 0.1
    training, validation = panels["Loss"]["lines"]
    assert (len(training["x"]), validation["x"][:2], validation["points"]) == (40, [2, 4], True)
    assert (run.metrics.skipped, run.metrics.rewound) == ([13], [(20, 18, 16)])


def test_several_runs_share_panels(made_up: Any, store: Store, make_checkpoint: Any) -> None:
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
    """Collects the elements of a page and all addresses in it."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def test_a_page_is_self_contained_and_external_text_is_escaped(made_up: Any, store: Store, start_run: Any) -> None:
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


def test_a_run_in_progress_is_found_by_name_and_id(made_up: Any, store: Store, start_run: Any) -> None:
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
    with pytest.raises(MissingArtifactError, match="a run in progress can be given by its id"):
        find_run(store, "nobody")


def test_artifacts_without_training_are_refused(store: Store, make_checkpoint: Any, start_run: Any) -> None:
    make_checkpoint(None, name="grown")
    with pytest.raises(InputError, match="grow does not train"):
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


def test_configuration_values_are_shown_without_python_syntax(made_up: Any, store: Store, make_checkpoint: Any) -> None:
    made = make_checkpoint(made_up(5), name="rich")
    path = made.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"] = {"flag": True, "nothing": None, "names": ["a", "b"], "empty": [], "seed": 1234567}
    rows = dict(configuration_table([replace(find_run(store, "rich"), artifact=rewritten(made, manifest))]))
    assert [rows[key] for key in manifest["config"]] == [["true"], ["none"], ["a, b"], ["none"], ["1234567"]]


def rewritten(made: Artifact, manifest: dict[str, Any]) -> Artifact:
    return Artifact(made.path, Manifest.model_validate(manifest))
