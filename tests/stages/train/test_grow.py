"""Stage `grow`, and training that continues from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longcat.pipeline.artifact import Artifact
from longcat.stages.formats.checkpoint import read_model, read_start
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state


@pytest.fixture
def base(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> Artifact:
    trained: Artifact = run_stage("train", tiny | {"model": {"num_layers": 2}}, {"tokens": tokens})
    return trained


def test_layers_are_stacked_and_the_rest_is_copied(run_stage: Any, base: Artifact) -> None:
    grown = run_stage("grow", {"factor": 3}, {"checkpoint": base})
    assert grown.manifest.metrics == {"layer_mapping": [0, 1, 0, 1, 0, 1]}
    assert (grown.manifest.counts["layers_in"], grown.manifest.counts["layers_out"]) == (2, 6)
    small, large = read_model(base), read_model(grown)
    assert large.config.num_layers == 6
    for layer in range(6):
        for name, tensor in small.model.layers[layer % 2].state_dict().items():
            assert torch.equal(tensor, large.model.layers[layer].state_dict()[name])
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert torch.equal(small.state_dict()[name], large.state_dict()[name])
    assert {entry.path for entry in grown.manifest.files} == {entry.path for entry in base.manifest.files} - {
        "metrics.jsonl"
    }


def test_moments_and_biases_are_copied(run_stage: Any, base: Artifact) -> None:
    grown = run_stage("grow", {}, {"checkpoint": base})
    small, large = read_start(base).moments, read_start(grown).moments
    assert len(large) > len(small)
    for name, tensor in small.items():
        assert torch.equal(tensor, large[name])
        assert torch.equal(tensor, large[name.replace("layers.0.", "layers.2.").replace("layers.1.", "layers.3.")])
    biases = read_model(grown).router_biases()
    assert biases[0].abs().max() > 0
    assert torch.equal(biases[0], biases[2])
    assert torch.equal(biases[1], biases[3])


def test_moments_and_biases_may_be_reset(run_stage: Any, base: Artifact) -> None:
    grown = run_stage("grow", {"optimizer": "zero", "router_biases": "zero"}, {"checkpoint": base})
    assert read_start(grown).moments == {}
    assert all(bias.abs().max() == 0 for bias in read_model(grown).router_biases())


@pytest.mark.parametrize("optimizer", ["copy", "zero"])
def test_training_continues(
    optimizer: str, run_stage: Any, base: Artifact, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    grown = run_stage("grow", {"optimizer": optimizer}, {"checkpoint": base})
    before = read_state(grown)
    assert before.model_dump(exclude={"growth"}) == read_state(base).model_dump(exclude={"growth"})
    assert before.growth == [{"checkpoint": base.id, "factor": 2, "layer_mapping": [0, 1, 0, 1]}]
    onward = {key: value for key, value in tiny.items() if key != "preset"} | {"steps": 12}
    trained = run_stage("train", onward, {"tokens": tokens, "checkpoint": grown})
    records = read_metrics(trained.file("metrics.jsonl"))
    assert [record["step"] for record in records] == list(range(9, 21))
    assert len(records[0]["active_experts"]) == 4
    assert records[-1]["loss"] < records[0]["loss"]
    after = read_state(trained)
    assert (after.step, after.samples, after.schedule_position) == (20, 80, 12)
    assert after.growth == before.growth
    assert after.data is not None
    assert after.data.position == 80
    moment_steps = {float(tensor) for name, tensor in read_start(trained).moments.items() if name.endswith(".step")}
    assert moment_steps == ({20.0} if optimizer == "copy" else {12.0})
