"""Stage `quantize` and its command."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from longcat.cli.quantize import tokens_of_lineage
from longcat.model.checkpoint import load_pretrained, quantization_of
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.stages.formats.checkpoint import read_model
from longcat.stages.formats.training_state import read_state
from longcat.stages.formats.validation_windows import validation_windows
from longcat.stages.formats.windows import open_tokens
from longcat.stages.inference.loading import load_model, pack_weights, stored_weights

CONFIG = {"sequence_length": 16, "windows": 6}


@pytest.fixture
def trained(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> Artifact:
    made: Artifact = run_stage("train", tiny | {"steps": 30}, {"tokens": tokens})
    return made


def perplexity(model: Any, tokens: Artifact) -> float:
    """By the definition: the documents of every window one by one."""
    windows = validation_windows(open_tokens(tokens.path, "validation"), 16, 6)
    losses = []
    for x, y, starts in zip(windows.inputs, windows.targets, windows.starts or (), strict=True):
        ids, targets = torch.from_numpy(x), torch.from_numpy(y)
        for start, end in pairwise([*starts.tolist(), 16]):
            with torch.no_grad():
                logits_TV = model(ids[None, start:end]).logits[0]
            losses.append(F.cross_entropy(logits_TV, targets[start:end], reduction="none")[targets[start:end] >= 0])
    return math.exp(float(torch.cat(losses).double().mean()))


@pytest.mark.parametrize("weights", ["int8", "int4", "fp8", "fp16", "bf16"])
def test_weights_are_smaller_and_the_perplexity_is_told(
    run_stage: Any, trained: Artifact, tokens: Artifact, weights: str
) -> None:
    made = run_stage("quantize", CONFIG | {"weights": weights}, {"checkpoint": trained, "tokens": tokens})
    metrics = made.manifest.metrics
    assert metrics["weight_bytes"] < metrics["weight_bytes_before"]
    assert metrics["perplexity_before"] == pytest.approx(perplexity(read_model(trained), tokens), rel=1e-5)
    assert abs(metrics["perplexity_change"]) < {"int4": 0.2}.get(weights, 0.03)
    plain = weights in ("fp16", "bf16")
    assert quantization_of(made.path) == (None if plain else weights)
    assert (made.manifest.counts["quantized_matrices"] == 0) == plain
    dequantised = perplexity(load_pretrained(made.path, quantized="read"), tokens)
    assert metrics["perplexity_after"] == pytest.approx(dequantised, rel=0.02)
    assert read_state(made) == read_state(trained)
    assert made.file("tokenizer.json").read_bytes() == trained.file("tokenizer.json").read_bytes()


def test_the_same_quantisation_gives_the_same_bytes(
    run_stage: Any, trained: Artifact, tokens: Artifact, contents: Any
) -> None:
    inputs = {"checkpoint": trained, "tokens": tokens}
    assert contents(run_stage("quantize", CONFIG, inputs)) == contents(run_stage("quantize", CONFIG, inputs))


def test_without_tokens_there_is_no_perplexity(run_stage: Any, trained: Artifact) -> None:
    metrics = run_stage("quantize", CONFIG, {"checkpoint": trained}).manifest.metrics
    assert metrics["perplexity_before"] is metrics["perplexity_after"] is metrics["perplexity_change"] is None


def test_tokens_of_another_tokenizer_are_refused(run_stage: Any, trained: Artifact, make_tokens: Any) -> None:
    other = make_tokens([50] * 9, identifier="70ce500000000009", words=60)
    with pytest.raises(InputError, match="another tokenizer"):
        run_stage("quantize", CONFIG, {"checkpoint": trained, "tokens": other})


def test_training_refuses_a_quantised_checkpoint_by_name(
    run_stage: Any, trained: Artifact, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    made = run_stage("quantize", CONFIG, {"checkpoint": trained, "tokens": tokens})
    onward = {key: value for key, value in tiny.items() if key != "preset"}
    with pytest.raises(IntegrityError, match="the weights are int8; quantised weights are for inference"):
        run_stage("train", onward, {"tokens": tokens, "checkpoint": made})
    with pytest.raises(IntegrityError, match="the weights are int8"):
        run_stage("grow", {}, {"checkpoint": made})


@pytest.mark.parametrize(("weights", "form"), [("int8", "int8"), ("int4", "int4"), ("fp16", "fp16"), ("fp8", "auto")])
def test_a_server_takes_the_stored_form(run_stage: Any, trained: Artifact, weights: str, form: str) -> None:
    made = run_stage("quantize", {"weights": weights}, {"checkpoint": trained})
    assert stored_weights(made.path) == form
    model = load_model(made.path, device="cpu", dtype="float32")
    report = pack_weights(model, made.path, "auto")
    assert report is not None
    assert report.weights == form
    assert pack_weights(load_model(made.path, device="cpu", dtype="bfloat16"), made.path, "auto") is None
    with pytest.raises(ConfigError, match="load with dtype float32"):
        pack_weights(load_model(made.path, device="cpu", dtype="bfloat16"), made.path, "int8")


class OneStore:
    """A store of one checkpoint and the tokens that it was made from."""

    def __init__(self, *artifacts: Artifact) -> None:
        self.artifacts = {artifact.id: artifact for artifact in artifacts}

    def resolve(self, reference: str) -> Artifact:
        return self.artifacts[reference]

    def get(self, kind: str, identifier: str) -> Artifact | None:
        return self.artifacts.get(identifier)


def test_tokens_are_those_of_the_lineage_unless_given(trained: Artifact, tokens: Artifact) -> None:
    store: Any = OneStore(trained, tokens)
    assert tokens_of_lineage(store, {"checkpoint": trained.id})["tokens"] == tokens.id
    assert tokens_of_lineage(store, {"checkpoint": trained.id, "tokens": "mine"})["tokens"] == "mine"
    assert "tokens" not in tokens_of_lineage(OneStore(trained), {"checkpoint": trained.id})  # type: ignore[arg-type]


def test_config_json_tells_the_method(run_stage: Any, trained: Artifact) -> None:
    made = run_stage("quantize", {"weights": "fp8"}, {"checkpoint": trained})
    stated = json.loads(Path(made.path / "config.json").read_text())["quantization_config"]
    assert stated == {
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"
    }  # fmt: skip
