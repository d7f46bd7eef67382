"""Importance of attention modules: the loss of a model of which one module streams."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from longcat.cli.app import run
from longcat.cli.importance_report import print_importance
from longcat.model.attention.window import WindowOptions
from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.stages.evaluate.importance import attention_importance, importance_of_checkpoint
from longcat.stages.formats.checkpoint import read_model
from longcat.stages.formats.validation_windows import ValidationWindows, validation_windows
from longcat.stages.formats.windows import open_tokens

STREAMING = WindowOptions(size=8, sinks=4, block=4)


@pytest.fixture
def windows(tokens: Artifact) -> ValidationWindows:
    return validation_windows(open_tokens(tokens.path, "validation"), 64, 4)


def converted(model: LongcatFlash, slot: int) -> LongcatFlash:
    """A model of the same weights whose configuration has the streaming module."""
    slots = 2 * model.config.num_layers
    window = {"kind": "window", **STREAMING.model_dump()}
    pattern = [window if place == slot else {"kind": "mla"} for place in range(slots)]
    other = LongcatFlash(ModelConfig(**{**model.config.model_dump(), "attention": {"pattern": pattern}}))
    other.load_state_dict(model.state_dict())
    return other


@torch.no_grad()
def test_changes_are_those_of_converted_models(short: Artifact, windows: ValidationWindows) -> None:
    model = read_model(short)
    found = attention_importance(model, windows, STREAMING)
    assert [slot.slot for slot in found.slots] == list(range(2 * model.config.num_layers))
    assert len({slot.change for slot in found.slots}) > 1
    again = attention_importance(model, windows, STREAMING)
    assert again == found, "the model is as it was"
    x_BT, y_BT = (torch.from_numpy(ids[:, : windows.filled]) for ids in (windows.inputs, windows.targets))
    bounds = windows.cu_seqlens(windows.filled)
    assert bounds is not None
    for slot in found.slots:
        total, counted, _ = converted(model, slot.slot).loss(x_BT, y_BT, torch.from_numpy(bounds))
        assert found.loss + slot.change == pytest.approx(float(total / counted), abs=5e-6)


def test_the_least_important_half_is_proposed(short: Artifact, windows: ValidationWindows, capfd: Any) -> None:
    model = read_model(short)
    found = attention_importance(model, windows, STREAMING)
    changes = {slot.slot: slot.change for slot in found.slots}
    assert len(found.streaming) == len(changes) // 2
    others = changes.keys() - set(found.streaming)
    assert max(changes[slot] for slot in found.streaming) <= min(changes[slot] for slot in others)
    config = ModelConfig(**{**model.config.model_dump(), "attention": found.attention})
    streaming = {slot for slot in changes if config.mixer(slot).kind == "window"}
    assert streaming == set(found.streaming)
    print_importance(found)
    last = capfd.readouterr().out.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("attention: ")) == found.attention


def test_what_cannot_be_measured_is_named(short: Artifact, tokens: Artifact, windows: ValidationWindows) -> None:
    with pytest.raises(ConfigError, match="show streaming attention of 72 positions all of them"):
        attention_importance(read_model(short), windows, WindowOptions(size=64, sinks=8, block=8))
    model = read_model(short)
    everywhere = ModelConfig(**{**model.config.model_dump(), "attention": {"kind": "window", "size": 8}})
    with pytest.raises(ConfigError, match="no attention module of the model is of kind mla"):
        attention_importance(LongcatFlash(everywhere), windows, STREAMING)
    with pytest.raises(ConfigError, match="97"):
        importance_of_checkpoint(short, tokens, STREAMING, 97, 2, 1)


def test_the_command_prints_what_is_measured(short: Artifact, tokens: Artifact, capfd: Any) -> None:
    store = str(short.path.parents[1])
    options = ["--sequence-length", "64", "--windows", "4", "--size", "8", "--sinks", "4", "--threads", "1"]
    command = ["--store", store, "model", "attention-importance", short.id, "--tokens", tokens.id, *options]
    assert run([*command, "--block", "4", "--json"]) == 0
    expected = importance_of_checkpoint(short, tokens, STREAMING, 64, 4, 1)
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(expected.to_json()))
    assert run([*command, "--block", "3"]) == 3
    assert "block = 3 must divide size = 8 and sinks = 4" in capfd.readouterr().err
