"""Stage `grow`, and training that continues from it."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longcat.model.checkpoint import Conversion
from longcat.model.growth import files
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, IntegrityError, MachineError
from longcat.pipeline.runner import Session, plan_named
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


@pytest.mark.parametrize(("choice", "factor"), [("rescale", 0.5**0.5), ("keep", 1.0)])
def test_what_depends_on_the_depth_is_rescaled(
    choice: str, factor: float, run_stage: Any, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    """Weights, moments and averages, with a run that continues; only output projections."""
    options = {"model": {"num_layers": 1, "moe_layout": "span"}, "optimizer": {"average_decay": 0.9}}
    base = run_stage("train", tiny | options, {"tokens": tokens})
    grown = run_stage("grow", {"depth_scale": choice}, {"checkpoint": base})
    small, large = read_model(base).model.layers, read_model(grown).model.layers
    before, after = read_start(base), read_start(grown)
    for name, tensor in small[0].state_dict().items():
        is_output = name.endswith(("o_proj.weight", "down_proj.weight", "experts.down_proj"))
        expected, key = factor if is_output else 1.0, f"model.layers.0.{name}"
        if name == "embedding_norm.weight":
            assert name not in large[1].state_dict()
            continue
        torch.testing.assert_close(large[1].state_dict()[name], tensor * expected)
        if f"{key}.exp_avg" in before.moments:
            for power, moment in enumerate(("exp_avg", "exp_avg_sq"), start=1):
                found = after.moments[f"model.layers.1.{name}.{moment}"]
                torch.testing.assert_close(found, before.moments[f"{key}.{moment}"] / expected**power)
            torch.testing.assert_close(after.average[f"model.layers.1.{name}"], before.average[key] * expected)
    onward = {key: value for key, value in tiny.items() if key not in ("preset", "model")}
    trained = run_stage("train", onward | {"steps": 2}, {"tokens": tokens, "checkpoint": grown})
    assert read_model(trained).config.num_layers == 2


def test_moments_and_biases_may_be_reset(run_stage: Any, base: Artifact) -> None:
    grown = run_stage("grow", {"moments": "zero", "router_biases": "zero"}, {"checkpoint": base})
    assert read_start(grown).moments == {}
    assert all(bias.abs().max() == 0 for bias in read_model(grown).router_biases())


def test_moments_may_be_rescaled(run_stage: Any, base: Artifact) -> None:
    """Layer 1 has two copies, layer 0 one."""
    grown = run_stage("grow", {"moments": "rescale", "range": "1:"}, {"checkpoint": base})
    assert grown.manifest.metrics == {"layer_mapping": [0, 1, 1]}
    small, large = read_start(base).moments, read_start(grown).moments
    for name, tensor in large.items():
        copied = name.startswith(("model.layers.1.", "model.layers.2."))
        divisor = {"exp_avg": 2, "exp_avg_sq": 4, "step": 1}[name.rpartition(".")[2]] if copied else 1
        assert torch.equal(tensor * divisor, small[name.replace("layers.2.", "layers.1.")])
        assert tensor.dtype == small[name.replace("layers.2.", "layers.1.")].dtype


@pytest.mark.parametrize("moments", ["copy", "rescale"])
def test_factor_one_gives_the_same_bytes(moments: str, run_stage: Any, base: Artifact) -> None:
    grown = run_stage("grow", {"factor": 1, "order": "interleave", "moments": moments}, {"checkpoint": base})
    files = {entry.path: entry.sha256 for entry in base.manifest.files}
    del files["metrics.jsonl"], files["training/state.json"]
    assert "training/optimizer.safetensors" in files
    assert "model.safetensors" in files
    assert {entry.path: entry.sha256 for entry in grown.manifest.files if entry.path in files} == files
    assert read_model(grown).config == read_model(base).config


def test_averaged_weights_are_repeated(run_stage: Any, tokens: Artifact, tiny: dict[str, Any], base: Artifact) -> None:
    options = tiny | {"model": {"num_layers": 2}, "optimizer": {"average_decay": 0.9}}
    averaged = run_stage("train", options, {"tokens": tokens})
    grown = run_stage("grow", {"order": "interleave"}, {"checkpoint": averaged})
    small, large = read_start(averaged).average, read_start(grown).average
    assert large.keys() == dict(read_model(grown).named_parameters()).keys()
    for name, tensor in large.items():
        source = re.sub(r"model\.layers\.(\d)", lambda match: f"model.layers.{int(match[1]) // 2}", name)
        assert torch.equal(tensor, small[source])


def test_weights_keep_their_dtype(run_stage: Any, base: Artifact, tmp_path: Path) -> None:
    Conversion(base.path, dtype=torch.bfloat16).write(tmp_path / "half")
    imported = run_stage("import", {"folder": str(tmp_path / "half")}, {})
    grown = run_stage("grow", {}, {"checkpoint": imported})
    small, large = (load_file(artifact.file("model.safetensors")) for artifact in (imported, grown))
    assert large["model.layers.1.mlps.0.up_proj.weight"].dtype == torch.bfloat16
    for name, tensor in large.items():
        source = small[name.replace("layers.2.", "layers.0.").replace("layers.3.", "layers.1.")]
        assert tensor.dtype == source.dtype
        assert torch.equal(tensor, source)


def test_what_does_not_fit_the_model_is_refused_before_it_runs(session: Session, base: Artifact) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"range": "1:3"}, "range = 1:3 is not a part of the 2 layers"),
        ({"range": ":0"}, "range = 0:0 is not a part"),
        ({"range": "1-2"}, "'range': expected a:b, such as"),
        ({"factor": 1000}, "the grown model: num_layers = 2000: .*less than or equal to 1024"),
        ({"factor": 0}, "factor"),
        ({"order": "reverse"}, "order"),
    ]
    for config, message in refused:
        with pytest.raises(ConfigError, match=message):
            plan_named(session, "grow", config, {"checkpoint": base.id})


def test_an_interrupted_growth_goes_on_after_the_last_finished_file(
    run_stage: Any, base: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_stage("grow", {"factor": 3}, {"checkpoint": base})
    shutil.rmtree(expected.path)
    written: list[str] = []
    write = files.write_copies

    def failing(path: Path, *given: Any) -> None:
        written.append(path.name.split(".")[1])
        if written == ["optimizer", "model"]:
            path.write_bytes(b"half")
            raise OSError(errno.EIO, "Input/output error", str(path))
        write(path, *given)

    monkeypatch.setattr(files, "write_copies", failing)
    with pytest.raises(MachineError, match="Input/output error"):
        run_stage("grow", {"factor": 3}, {"checkpoint": base})
    again = run_stage("grow", {"factor": 3}, {"checkpoint": base})
    assert written == ["optimizer", "model", "model"]
    assert {entry.path: entry.sha256 for entry in again.manifest.files} == {
        entry.path: entry.sha256 for entry in expected.manifest.files
    }


def test_a_damaged_checkpoint_is_an_error(run_stage: Any, base: Artifact) -> None:
    path = base.path / "training/optimizer.safetensors"
    path.chmod(0o600)
    path.write_bytes(b"\xff" + path.read_bytes()[1:])
    with pytest.raises(IntegrityError, match=r"is damaged: training/optimizer\.safetensors"):
        run_stage("grow", {}, {"checkpoint": base})


@pytest.mark.parametrize("moments", ["copy", "rescale", "zero"])
def test_training_continues(
    moments: str, run_stage: Any, base: Artifact, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    grown = run_stage("grow", {"moments": moments}, {"checkpoint": base})
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
    assert moment_steps == ({12.0} if moments == "zero" else {20.0})


def test_the_learning_rate_is_continued_or_warmed_up_again(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    """Linear decay over the last fifth (4 of 20 steps), from 0.003 to a tenth of it."""
    total = {"schedule": {"total_steps": 20, "warmup_steps": 2}, "steps": 18}
    small = run_stage("train", tiny | total, {"tokens": tokens})
    grown = run_stage("grow", {}, {"checkpoint": small})
    onward = {key: value for key, value in (tiny | total).items() if key != "preset"} | {"steps": 2}

    def rates(schedule: dict[str, Any]) -> list[float]:
        trained = run_stage("train", onward | {"schedule": schedule}, {"tokens": tokens, "checkpoint": grown})
        return [record["learning_rate"] for record in read_metrics(trained.file("metrics.jsonl"))]

    assert rates(total["schedule"]) == pytest.approx([0.003 * (1 - 0.9 * 3 / 4), 0.003 * 0.1])
    last = 0.003 * (1 - 0.9 / 2)
    rewarmed = rates({"on_join": "rewarm", "warmup_steps": 2, "kind": "constant"})
    assert rewarmed == pytest.approx([(last + 0.003) / 2, 0.003])
