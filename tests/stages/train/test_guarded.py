"""Spikes, rewinds and checks of the hardware in a whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import LongcatError
from longcat.pipeline.store import Store
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state
from longcat.stages.formats.windows import Batch, WindowSource, batch
from longcat.stages.train import gradients, trainer
from longcat.stages.train.stability.errors import DivergedError

Contents = Callable[[Artifact], dict[str, str]]
NEVER = 63  # not a token of the corpus
BAD = range(40, 52)  # the samples of steps 11 to 13


@pytest.fixture
def guarded(tiny: dict[str, Any]) -> dict[str, Any]:
    spikes = {"least_history": 4, "window": 8, "diverged_after": 3}
    return tiny | {
        "steps": 20,
        "checkpoint_every": 4,
        "keep_last": 3,
        "loader_workers": 0,
        "stability": {"every": 5, "spikes": spikes},
        "balance_loss": {"every": 5},
    }


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give batches of the bad samples a loss of 50."""

    def marked(source: WindowSource, first: int, size: int) -> Batch:
        rows = batch(source, first, size)
        if first in BAD:
            rows.ids[0, 0] = NEVER
        return rows

    take = gradients.BatchGradients.take

    def spiking(self: Any, rows: Batch, step: int) -> Any:
        taken = take(self, rows, step)
        return replace(taken, figures=taken.figures | {"loss": 50.0}) if (rows.ids == NEVER).any() else taken

    monkeypatch.setattr(trainer, "batch", marked)
    monkeypatch.setattr(gradients.BatchGradients, "take", spiking)


@pytest.mark.usefixtures("poisoned")
def test_a_divergence_rewinds_and_skips_the_bad_samples(
    run_stage: Any, tokens: Artifact, guarded: dict[str, Any]
) -> None:
    trained = run_stage("train", guarded, {"tokens": tokens})
    records = read_metrics(trained.file("metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(1, 21))
    rewound = {"from_step": 13, "to_step": 8, "samples_skipped": 20, "rewinds": 1}
    assert {record["step"]: record["rewound"] for record in records if "rewound" in record} == {9: rewound}
    assert all(record["loss"] < 10 and "skipped" not in record for record in records)
    state = read_state(trained)
    assert state.data is not None
    assert (state.step, state.data.position) == (20, 20 * 4 + 20)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("call", [10, 13, 14, 16])
def test_a_kill_around_a_rewind_gives_the_same_bits(
    call: int,
    store: Store,
    run_stage: Any,
    tokens: Artifact,
    guarded: dict[str, Any],
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = run_stage("train", guarded, {"tokens": tokens})
    hashes = contents(expected)
    store.remove(expected)
    original, calls = trainer.TrainingRun.step, [0]

    def step(self: trainer.TrainingRun, done: int) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return original(self, done)

    monkeypatch.setattr(trainer.TrainingRun, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run_stage("train", guarded, {"tokens": tokens})
    assert contents(run_stage("train", guarded, {"tokens": tokens})) == hashes


@pytest.mark.usefixtures("poisoned")
def test_skipped_steps_change_no_weight(run_stage: Any, tokens: Artifact, guarded: dict[str, Any]) -> None:
    guarded["stability"]["spikes"] |= {"diverged_after": 5}
    trained = run_stage("train", guarded, {"tokens": tokens})
    records = read_metrics(trained.file("metrics.jsonl"))
    assert [record["step"] for record in records if record.get("skipped")] == [11, 12, 13]
    assert [records[place]["loss"] for place in (10, 11, 12)] == [50.0] * 3
    assert trained.manifest.metrics["train_loss"] < 10


@pytest.mark.usefixtures("poisoned")
def test_a_run_without_rewinds_ends(run_stage: Any, tokens: Artifact, guarded: dict[str, Any]) -> None:
    guarded["stability"]["spikes"] |= {"action": "skip"}
    with pytest.raises(DivergedError, match="all steps from 11 to 13 were bad, at the last the loss of 50 exceeds"):
        run_stage("train", guarded, {"tokens": tokens})


def test_measurements_are_in_their_lines(run_stage: Any, tokens: Artifact, guarded: dict[str, Any]) -> None:
    records = read_metrics(run_stage("train", guarded, {"tokens": tokens}).file("metrics.jsonl"))
    measured = [record for record in records if "stability" in record]
    assert [record["step"] for record in measured] == [1, 2, 4, 6, 11, 16]
    assert {"balance_gradient_ratio", "router_cosine", "largest_activation", "gradient_rms", "parameter_rms"} == set(
        measured[0]["stability"]
    )
    assert records[0]["balance_coefficient"] == 0 < records[1]["balance_coefficient"]
    assert all(ratio <= 0.11 for record in measured[1:] for ratio in record["stability"]["balance_gradient_ratio"])
    assert sum(measured[0]["expert_load"][0]) == 4 * 32 * 2  # tokens times slots


def test_the_corruption_check_changes_nothing_and_finds_a_flipped_bit(
    store: Store,
    run_stage: Any,
    tokens: Artifact,
    guarded: dict[str, Any],
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = run_stage("train", guarded, {"tokens": tokens})
    store.remove(plain)
    guarded["stability"] |= {"corruption_every": 3}
    checked = run_stage("train", guarded, {"tokens": tokens})
    assert checked.manifest.config["stability"]["corruption_every"] == 3
    for file in ("model.safetensors", "metrics.jsonl", "training/optimizer.safetensors"):
        assert contents(checked)[file] == contents(plain)[file]

    from longcat.model.layers.shortcut import ShortcutLayer

    forward, calls = ShortcutLayer.forward, [0]

    def flipped(self: Any, *arguments: Any) -> Any:
        output = forward(self, *arguments)
        calls[0] += 1
        return output._replace(hidden_BTD=output.hidden_BTD * (1 + 2**-20)) if calls[0] == 2 else output

    monkeypatch.setattr(ShortcutLayer, "forward", flipped)
    with pytest.raises(LongcatError, match=r"of layer 0 differs when recomputed"):
        run_stage("train", guarded | {"seed": 1}, {"tokens": tokens})
