"""What a phase changes in the model: YaRN and conversion to another attention."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from longcat.model import mixers
from longcat.model.config import ModelConfig
from longcat.model.init import initial_value, initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError
from longcat.stages.extend.config import Phase
from longcat.stages.extend.step import config_of_phase, model_of_phase
from longcat.stages.formats.checkpoint import Start

YARN = {"factor": 4.0, "original_max_position_embeddings": 512}
SMOKE = load_preset("smoke")  # base 1e6, 512 tokens
PATTERN = {"pattern": ["test_linear", "mla"]}


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")


def phase(**values: Any) -> Phase:
    return Phase(**({"sequence_length": 1024, "steps": 1, "batch_size": 1} | values))


def changes(before: ModelConfig, after: ModelConfig) -> set[str]:
    return {key for key in ModelConfig.model_fields if getattr(before, key) != getattr(after, key)}


def test_a_phase_changes_what_it_states_and_keeps_the_rest() -> None:
    first = config_of_phase(SMOKE, phase(rope_scaling=YARN), 0)
    assert changes(SMOKE, first) == {"rope_scaling", "max_position_embeddings"}
    second = config_of_phase(first, phase(sequence_length=2048, rope_theta=5e6, attention=PATTERN), 1)
    assert changes(first, second) == {"rope_theta", "attention", "max_position_embeddings"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_theta": 1e5}, r"phases.3.rope_theta = 100000 is below the model's 1e\+06"),
        ({"rope_scaling": YARN, "sequence_length": 2049}, "2049, but rope_scaling reaches 2048 tokens"),
        ({"rope_scaling": YARN | {"factor": 1.5}}, "rope_scaling.factor = 1.5 is below 2"),
        ({"attention": "nothing"}, "phases.3: .*unknown kind 'nothing'"),
    ],
)
def test_a_step_back_or_out_of_reach_is_refused(values: dict[str, Any], message: str) -> None:
    model = config_of_phase(SMOKE, phase(rope_scaling=YARN | {"factor": 2.0}), 0)
    with pytest.raises(ConfigError, match=message):
        config_of_phase(model, phase(**values), 3)


def test_a_conversion_keeps_what_fits_and_initializes_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    model = LongcatFlash(SMOKE)
    initialize(model, 0)
    ones = {f"{name}.exp_avg": torch.ones_like(value) for name, value in model.named_parameters()}
    average = {name: torch.full_like(value, 2.0) for name, value in model.named_parameters()}
    config = config_of_phase(SMOKE, phase(attention=PATTERN), 0)
    converted, start = model_of_phase(
        model, config, Start(ones, average), 7, {"hidden": 0.3}, logging.getLogger("test")
    )
    before, after = model.state_dict(), converted.state_dict()
    new = {f"model.layers.0.self_attn.0.{name}" for name in ("q_proj", "k_proj", "v_proj")}
    new = {f"{name}.weight" for name in new} | {"model.layers.0.self_attn.0.A_log"}
    # Its output projection has another width in the two kinds: 2 heads of 16 values, 64 channels.
    new.add("model.layers.0.self_attn.0.o_proj.weight")
    assert {name for name in after if name not in before or after[name].shape != before[name].shape} == new
    for name, value in after.items():
        expected = initial_value(config, 7, name, value.shape, {"hidden": 0.3}) if name in new else before[name]
        assert torch.equal(value, expected), name
    kept = {name for name, _ in converted.named_parameters()} - new
    assert {name.removesuffix(".exp_avg") for name in start.moments} == kept
    assert start.average.keys() == dict(converted.named_parameters()).keys()
    assert torch.equal(start.average[min(new)], after[min(new)])
    assert "5 parameters are new" in caplog.text
    assert "7 parameters are dropped" in caplog.text
