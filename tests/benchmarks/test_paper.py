"""Toy reproductions of the report: all scripts run, and their measurements are correct."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"
NAMES = (
    *("zero_experts", "shortcut", "mla_scale", "hidden_z_loss", "adam_epsilon", "learning_rate_transfer"),
    *("growth", "spannorm", "wisca", "muon", "ngram"),
)


@pytest.fixture(scope="module", autouse=True)
def _importable():
    """The scripts import sibling modules by bare names; these imports are undone after the test."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if (FOLDER / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.mark.parametrize("name", NAMES)
def test_quick_run_writes_plot_table_and_figures(name, output, capsys):
    toy, script = importlib.import_module("toy"), importlib.import_module(name)
    toy.main(script.EXPERIMENT, ["--quick", "--output", str(output)])
    table = (output / f"{name}.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    svg = ElementTree.parse(output / f"{name}.svg").getroot()  # noqa: S314
    assert len(svg.findall(".//{http://www.w3.org/2000/svg}polyline")) >= 2
    figures = json.loads((output / f"{name}.json").read_text(encoding="utf-8"))
    assert len(figures) >= 2
    for runs in figures.values():
        assert 6 < runs[0]["validation_loss"] < 12


def test_finished_runs_are_not_repeated(output):
    toy, script = importlib.import_module("toy"), importlib.import_module("shortcut")
    times = []
    for _ in range(2):
        toy.main(script.EXPERIMENT, ["--quick", "--output", str(output)])
        times.append({path: path.stat().st_mtime_ns for path in (output / "shortcut").glob("*.json")})
    assert times[0] == times[1]
    assert len(times[0]) == 2


def test_runs_repeat_bit_by_bit(output):
    toy, text = importlib.import_module("toy"), importlib.import_module("text")
    tokens = text.library_text(output / "tokens-quick.npz", quick=True)
    run = toy.Run("twice", seed=3, steps=3, batch_size=2, sequence_length=16)
    one, other = (toy.train(run, tokens) for _ in range(2))
    for figures in (one, other):
        for clock in ("cpu_seconds", "wall_seconds", "peak_bytes"):
            del figures[clock]
    assert one == other
    assert len(one["loss"]) == 3


def test_windows_of_an_epoch_cover_the_stream_exactly_once():
    text = importlib.import_module("text").Text.of(*(torch.arange(101, dtype=torch.int32).numpy(),) * 2, 128)
    rows = [text.batch(seed=0, step=step, rows=2, length=10) for step in range(5)]
    assert sorted(int(token) for batch in rows for row in batch for token in row[:-1]) == list(range(100))
    assert all((row[1:] == row[:-1] + 1).all() for batch in rows for row in batch)


def test_transfer_scales_all_matrices_except_the_embedding():
    toy = importlib.import_module("toy")
    text = importlib.import_module("text").Text.of(*(torch.arange(101, dtype=torch.int32).numpy(),) * 2, 128)
    plain, scaled = (toy.Trainer(toy.Run("", 0, width_scale=scale), text) for scale in (1.0, 4.0))
    factors = {id(p): group["factor"] for group in scaled.optimizer.param_groups for p in group["params"]}
    for (name, one), other in zip(plain.model.named_parameters(), scaled.model.parameters(), strict=True):
        narrowed = one.ndim >= 2 and "embed_tokens" not in name
        assert torch.equal(other, one / 2 if narrowed else one), name
        assert factors[id(other)] == (0.25 if narrowed else 1.0), name


def test_optimum_is_the_vertex_of_a_parabola_in_the_logarithm():
    script = importlib.import_module("learning_rate_transfer")
    logs = torch.tensor(script.RATES).log()
    centre = 0.7 * logs[2] + 0.3 * logs[3]
    row = [(float(log - centre)) ** 2 for log in logs]
    assert script.optimum(row) == pytest.approx(float(centre.exp()))
    assert script.optimum([3.0, 2.0, 1.0, 0.5, float("nan")]) == script.RATES[3]


def test_steps_to_recover_from_growth(monkeypatch):
    growth = importlib.import_module("growth")
    monkeypatch.setattr(growth, "WINDOW", 2)
    losses = [5.0, 4.0, 3.0, 6.0, 4.0, 3.5, 3.25, 2.0]
    # The mean before step 3 is 3.5; those of two losses from there on are 5, 3.75, 3.375.
    assert growth.recovered(losses, 3) == 4
    assert growth.recovered(losses[:6], 3) is None


def test_runs_that_grow_have_equal_flops():
    growth = importlib.import_module("growth")
    ratio, costs = growth.flops_ratio(), {}
    for run in growth.plan(range(1)):
        if run.model["num_layers"] == growth.SMALL:
            small = run.steps
        else:
            small = 0 if run.growing is None else run.growing.after(run.steps)
        costs[run.label] = small * ratio + run.steps - small
    timed = set(growth.TIMED.values())
    assert all(abs(cost - growth.LARGE_STEPS) < 1 for label, cost in costs.items() if label not in timed)


@pytest.mark.parametrize("own", [False, True])
def test_a_run_grows_with_its_moments_and_schedule(own, output):
    toy, text = importlib.import_module("toy"), importlib.import_module("text")
    words = text.library_text(output / "tokens-quick.npz", quick=True)
    growing = toy.Growing(0.5, "interleave", own_schedule=own)
    run = toy.Run("grown", 0, {"num_layers": 2}, steps=8, batch_size=2, sequence_length=16, growing=growing)
    trainer = toy.Trainer(run, words)
    for step in range(5):
        layers = len(trainer.model.model.layers)
        trainer.step(step)
    assert layers == 1
    assert len(trainer.model.model.layers) == 2
    assert trainer.jump["step"] == 4
    steps = {float(value) for name, value in toy.moments(trainer.model, trainer.optimizer).items() if "step" in name}
    assert steps == {5}
    # One warm-up step; with schedules of its own, the small model ends at 0.1 of the peak.
    rate = trainer.optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(run.learning_rate)
    assert trainer.schedule.start == pytest.approx(0.1 * run.learning_rate if own else 0)


@pytest.mark.parametrize("rescale", [True, False])
def test_growth_rescales_for_the_depth(rescale, output):
    toy, text = importlib.import_module("toy"), importlib.import_module("text")
    words = text.library_text(output / "tokens-quick.npz", quick=True)
    growing = toy.Growing(0.5, moments="copy", rescale_depth=rescale)
    model = {"num_layers": 2, "moe_layout": "span"}
    trainer = toy.Trainer(toy.Run("", 0, model, steps=4, batch_size=2, sequence_length=16, growing=growing), words)
    trainer.step(0)
    before = trainer.model.model.layers[0].mlps[0].down_proj.weight.detach().clone()
    moment = trainer.optimizer.state[trainer.model.model.layers[0].mlps[0].down_proj.weight]["exp_avg"].clone()
    trainer.grow(growing, 2)
    after = trainer.model.model.layers[1].mlps[0].down_proj.weight
    factor = 0.5**0.5 if rescale else 1.0
    torch.testing.assert_close(after, before * factor)
    torch.testing.assert_close(trainer.optimizer.state[after]["exp_avg"], moment / factor)


def test_rescaled_weights_give_the_same_logits(output):
    toy, text = importlib.import_module("toy"), importlib.import_module("text")
    words = text.library_text(output / "tokens-quick.npz", quick=True)
    options = {"every": 2, "at_start": True}
    run = toy.Run("", 0, steps=5, batch_size=2, sequence_length=16, rescaling=options)
    trainer, plain = toy.Trainer(run, words), toy.Trainer(toy.replace(run, rescaling={}), words)
    assert not torch.equal(*(one.model.model.layers[0].self_attn[0].o_proj.weight for one in (trainer, plain)))
    for step in range(5):
        trainer.step(step)
    assert list(trainer.rescalings) == [0, 2, 4]
    assert 0 < max(trainer.rescalings.values()) < 1e-5


def test_recall_of_delta_rules_writes_plot_table_and_figures(output, capsys):
    script = importlib.import_module("delta")
    script.main(["--quick", "--output", str(output)])
    table = (output / "delta.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert all(f"| {label} |" in table for label in ("GDN", "KDA", "GDN-2", "FG2-GDN", "FG2-GDN+", "MLA"))
    ElementTree.parse(output / "delta.svg")  # noqa: S314
    assert len(json.loads((output / "delta.json").read_text(encoding="utf-8"))) == 6


def test_recall_rows_ask_every_key_once_for_its_value():
    script = importlib.import_module("delta")
    ids, targets = script.recall_rows(script.np.random.default_rng(0), 50, 64, 8)
    half, distances = script.VOCABULARY // 2, []
    for row, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        values = dict(zip(row[0:16:2], row[1:16:2], strict=True))
        asked = {place: value for place, value in enumerate(wanted) if value != -100}
        assert {row[place]: value for place, value in asked.items()} == values
        assert len(values) == 8
        assert all(0 < key < half <= value for key, value in values.items())
        assert all(place >= 16 and place % 2 == 0 for place in asked)
        distances += [(place - 16) // 2 for place in asked]
    # A power law: most keys come back soon.
    assert sum(distance < 6 for distance in distances) > 1.3 * 6 / 24 * len(distances)
    with pytest.raises(ValueError, match="no room for 17 pairs"):
        script.recall_rows(script.np.random.default_rng(0), 1, 64, 17)
