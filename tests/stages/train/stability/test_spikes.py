"""Loss spikes in synthetic histories: skipped steps, rewinds, and no false alarms for noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from longcat.pipeline.errors import LongcatError
from longcat.stages.train.stability.config import SpikeOptions
from longcat.stages.train.stability.spikes import Rewound, SpikeGuard, SpikeVerdict, recorded

BATCH = 4


def record(step: int, loss: float, norm: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": loss, "gradient_norm": norm} | more


def calm(steps: int) -> list[dict[str, Any]]:
    """Losses of 2.0 and norms of 1.0, both ± 0.1."""
    return [record(step, 2.0 + 0.1 * (-1) ** step, 1.0 + 0.1 * (-1) ** step) for step in range(1, steps + 1)]


def guard(steps: int = 70, **options: Any) -> SpikeGuard:
    return SpikeGuard(SpikeOptions.model_validate(options), calm(steps))


@pytest.mark.parametrize(
    ("loss", "norm", "told"),
    [
        (2.59, 1.59, ""),
        (2.61, 1.0, "the loss of 2.61 exceeds 2.6"),
        (1.9, 10.1, "the gradient norm of 10.1 exceeds 10, whatever the loss"),
        (2.29, 9.9, ""),
        (2.31, 1.81, ""),
        # exp of the mean -0.005025 and six deviations of 0.100335 of ln 0.9 and ln 1.1
        (2.31, 1.82, "the gradient norm of 1.82 exceeds 1.817, and the loss of 2.31 2.3"),
        (math.nan, 1.0, "the loss is nan"),
        (2.0, math.inf, "the gradient norm is inf"),
    ],
)
def test_six_deviations_above_the_mean(loss: float, norm: float, told: str) -> None:
    verdict = guard().judge(71, loss, norm)
    assert verdict.reason == told
    assert verdict == (SpikeVerdict("skip", told, 71) if told else SpikeVerdict("take"))


def test_without_a_history_only_finiteness_is_checked() -> None:
    young = guard(63)
    assert young.judge(64, 1e9, 1e9).action == "take"
    assert young.judge(64, math.nan, 1.0).action == "skip"


def test_only_the_window_counts() -> None:
    old = [record(step, 9.0) for step in range(1, 201)]
    recent = [record(200 + line["step"], line["loss"]) for line in calm(128)]
    assert SpikeGuard(SpikeOptions(), old + recent).judge(329, 2.61, 1.0).action == "skip"
    assert SpikeGuard(SpikeOptions(), old + recent[:100]).judge(301, 2.61, 1.0).action == "take"


def test_a_constant_history_has_a_minimum_deviation() -> None:
    flat = SpikeGuard(SpikeOptions(), [record(step, 2.0) for step in range(1, 71)])
    assert flat.judge(71, 2.23, 1.0).action == "take"
    assert flat.judge(71, 2.25, 1.0).action == "skip"


def test_skipped_steps_never_enter_the_history() -> None:
    one = guard()
    for step in range(71, 76):
        one.add(record(step, 50.0, skipped=True))
    one.add(record(76, 2.0))
    assert one.judge(77, 2.61, 1.0) == SpikeVerdict("skip", "the loss of 2.61 exceeds 2.596", 77)


def test_none_accepts_every_step() -> None:
    assert guard(action="none").judge(71, math.nan, math.inf) == SpikeVerdict("take")


def test_values_of_a_skipped_step_are_json() -> None:
    assert [recorded(value) for value in (1.5, math.nan, -math.inf)] == [1.5, None, None]
    one = guard()
    one.add({"step": 71, "loss": None, "gradient_norm": None, "skipped": True})
    assert one.judge(72, math.nan, 1.0).action == "rewind"


def test_skipping_ends_if_the_run_has_diverged() -> None:
    one = guard(action="skip", diverged_after=3)
    for step in (71, 72):
        assert one.judge(step, 5.0, 1.0).action == "skip"
        one.add(record(step, 5.0, skipped=True))
    with pytest.raises(LongcatError, match="diverged: all steps from 71 to 73 were bad"):
        one.judge(73, 5.0, 1.0)


def test_consecutive_bad_steps_trigger_a_rewind() -> None:
    one = guard(diverged_after=3)
    for step in (71, 72):
        one.add(record(step, 5.0, skipped=True))
    assert one.judge(73, 5.0, 1.0) == SpikeVerdict("rewind", "the loss of 5 exceeds 2.6", 71)
    one.add(record(73, 2.0))
    assert one.judge(74, 5.0, 1.0).action == "skip"


def test_a_persistently_infinite_loss_triggers_a_rewind_at_once() -> None:
    one = guard()
    one.add(record(71, 5.0, skipped=True))
    assert one.judge(72, math.inf, 1.0) == SpikeVerdict("rewind", "the loss is inf", 71)
    assert one.judge(72, 5.0, math.inf).action == "skip"


def test_a_rewind_goes_back_before_the_first_bad_step() -> None:
    verdict = SpikeVerdict("rewind", "the loss is inf", 71)
    rewound = guard().rewind(verdict, step=80, saves=[40, 60, 71, 80], batch_size=BATCH)
    assert rewound == Rewound(from_step=80, to_step=60, samples_skipped=20 * BATCH, rewinds=1)
    with pytest.raises(LongcatError, match=r"steps 71 to 80 were bad.*no save is older.*keep_last"):
        guard().rewind(verdict, step=80, saves=[71, 80], batch_size=BATCH)


def test_no_more_rewinds_than_allowed() -> None:
    one = guard(max_rewinds=2)
    for rewinds in (1, 2):
        one.add(record(61, 2.0, rewound=Rewound(80, 60, rewinds * 20 * BATCH, rewinds).record()))
    assert (one.rewinds, one.samples_skipped) == (2, 40 * BATCH)
    with pytest.raises(LongcatError, match=r"after 2 rewinds .*lower learning_rate"):
        one.rewind(SpikeVerdict("rewind", "the loss is inf", 71), 80, [60], BATCH)


def test_a_rewind_removes_the_undone_steps() -> None:
    undone = [record(step, 4.0, 1.0) for step in range(71, 101)]
    back = record(71, 2.0, rewound=Rewound(100, 70, 0, 1).record())
    whole = SpikeGuard(SpikeOptions(), [*calm(70), *undone, back])
    cut = SpikeGuard(SpikeOptions(), [*calm(70), back])
    for loss in (2.5, 2.7):
        assert whole.judge(72, loss, 1.0) == cut.judge(72, loss, 1.0)
    assert whole.judge(72, 2.7, 1.0).action == "skip"


def test_a_rewind_restores_the_earlier_history() -> None:
    young = SpikeGuard(SpikeOptions(), [*calm(70), record(31, 2.0, rewound=Rewound(70, 30, 0, 1).record())])
    assert young.judge(32, 5.0, 1.0).action == "take"  # 31 steps are less than the minimum history
    bad = [record(step, 5.0, skipped=True) for step in (71, 72)]
    back = record(71, 5.0, skipped=True, rewound=Rewound(73, 70, 0, 1).record())
    again = SpikeGuard(SpikeOptions(diverged_after=3), [*calm(70), *bad, back])
    assert again.judge(72, 5.0, 1.0) == SpikeVerdict("skip", "the loss of 5 exceeds 2.6", 71)


def run(options: SpikeOptions, losses: Iterator[float], norms: Iterator[float], steps: int) -> list[dict[str, Any]]:
    """Records of a run with the guard, which is occasionally rebuilt from the records."""
    records: list[dict[str, Any]] = []
    one = SpikeGuard(options)
    for step in range(1, steps + 1):
        if step % 97 == 0:
            one = SpikeGuard(options, records)
        loss, norm = next(losses), next(norms)
        skip = one.judge(step, loss, norm).action != "take"
        records.append(record(step, loss, norm, **({"skipped": True} if skip else {})))
        one.add(records[-1])
    return records


@pytest.mark.parametrize("spread", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_noise_on_a_falling_loss_is_not_a_spike(seed: int, spread: float) -> None:
    """A loss of 2 + 8 / sqrt(step) with noise of 3 %, and gradient norms with a lognormal `spread`."""
    generator, steps = np.random.default_rng(seed), 4000
    falling = 2 + 8 / np.sqrt(np.arange(1, steps + 1))
    losses = falling * (1 + 0.03 * generator.standard_normal(steps))
    # A warm-up in which the norms double.
    norms = np.exp(spread * generator.standard_normal(steps)) * np.linspace(1, 2, steps)
    records = run(SpikeOptions(), iter(losses.tolist()), iter(norms.tolist()), steps)
    assert not [line["step"] for line in records if "skipped" in line]


@pytest.mark.parametrize("seed", range(3))
def test_heavy_tails_of_healthy_norms_are_not_spikes(seed: int) -> None:
    """Logarithms of norms as in measured runs: deviation 0.1, every 500th beyond six of them; losses independent."""
    generator, steps = np.random.default_rng(seed), 10_000
    norms = np.exp(0.06 * generator.standard_t(3, steps))
    losses = 3 + 0.1 * generator.standard_normal(steps)
    beyond = np.abs(np.log(norms)) > 6 * np.log(norms).std()
    assert beyond.sum() > 5
    records = run(SpikeOptions(), iter(losses.tolist()), iter(norms.tolist()), steps)
    assert sum("skipped" in line for line in records) <= 1


@pytest.mark.parametrize(
    ("loss", "norm"),
    [(1.3, 1.0), (1.1, 3.0), (1.0, 12.0)],
    ids=["loss", "both, less", "norm out of all proportion"],
)
def test_a_divergence_of_a_noisy_run_is_a_rewind(loss: float, norm: float) -> None:
    """After 300 noisy steps the figures are multiplied, by less than noise makes of either where both are."""
    generator, steps = np.random.default_rng(1), 300
    one = SpikeGuard(SpikeOptions())
    for step in range(1, steps + 11):
        diverged = step > steps
        figures = 3 * (1 + 0.03 * generator.uniform(-1, 1)), math.exp(0.12 * generator.uniform(-1, 1))
        if diverged:
            figures = figures[0] * loss, figures[1] * norm
        action = one.judge(step, *figures).action
        expected = "rewind" if step == steps + 10 else "skip"
        assert action == (expected if diverged else "take"), (step, figures)
        one.add(record(step, *figures, **({"skipped": True} if diverged else {})))


@pytest.mark.parametrize("growth", [1.02, 1.05, 1.2])
def test_a_loss_that_grows_is_stopped_before_it_has_doubled(growth: float) -> None:
    """The norms grow three times as fast."""
    generator, one = np.random.default_rng(2), SpikeGuard(SpikeOptions())
    for step in range(1, 301):
        more = growth ** max(0, step - 200)
        loss, norm = more * (2 + 8 / step**0.5 + 0.06 * generator.standard_normal()), more**3 * 1.0
        norm *= math.exp(0.12 * generator.standard_normal())
        if one.judge(step, loss, norm).action != "take":
            break
        one.add(record(step, loss, norm))
    assert step > 200
    assert more < 2


def test_a_real_spike_is_skipped_and_the_run_continues() -> None:
    generator, steps = np.random.default_rng(0), 400
    losses = 2 + 8 / np.sqrt(np.arange(1, steps + 1)) + 0.05 * generator.standard_normal(steps)
    losses[300:304] += np.array([2.0, 4.0, 3.0, 1.5])
    norms = 1 + 0.1 * generator.standard_normal(steps)
    records = run(SpikeOptions(), iter(losses.tolist()), iter(norms.tolist()), steps)
    assert [line["step"] for line in records if "skipped" in line] == [301, 302, 303, 304]


def test_options_out_of_range() -> None:
    with pytest.raises(ValidationError, match="least_history = 64 exceeds window = 32"):
        SpikeOptions(window=32)
