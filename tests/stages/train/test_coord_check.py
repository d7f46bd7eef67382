"""Stage `train.coord-check`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import longcat.stages.train.coord_check.run
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.files import read_json
from longcat.stages.train.coord_check.probe import Probe, rms
from longcat.stages.train.coord_check.run import slopes_of, verdict

CHECK: dict[str, Any] = {"preset": "smoke", "scales": [1, 4], "steps": 2, "sequence_length": 32, "device": "cpu"}


def test_the_probe_reads_activations() -> None:
    model = LongcatFlash(load_preset("smoke"))
    initialize(model, 0)
    ids_BT = torch.arange(40).view(2, 20)
    with torch.no_grad(), Probe(model).attached() as probe:
        _, _, output = model.loss(ids_BT, ids_BT)
        found = probe.read(output)
        assert found["output logits"] == pytest.approx(rms(model(ids_BT).logits[0]), rel=1e-4)
        attention = model.model.layers[0].self_attn[0]
        x_BTD = model.model.layers[0].input_layernorm[0](model.model.embed_tokens(ids_BT))
        q_BTHN, _, latent_BTC, _ = attention.project(x_BTD, model.context(ids_BT))
        k_BTHN = attention.kv_b_proj(latent_BTC).unflatten(-1, (2, -1))[..., :16]
        logits = torch.einsum("thn,shn->hts", q_BTHN[0], k_BTHN[0]) * attention.softmax_scale
    assert found["layer 0 attention 0 logits"] == pytest.approx(rms(logits), rel=1e-5)
    assert found["embedding"] == pytest.approx(rms(model.model.embed_tokens(ids_BT)), rel=1e-6)
    assert found["layer 0"] == pytest.approx(rms(output.residual_BTD), rel=1e-6)
    assert found["layer 0 router logits"] == pytest.approx(rms(output.routing[0].logits_TE), rel=1e-6)


def test_slopes_and_their_verdict() -> None:
    runs = [
        {"hidden_size": width, "steps": [{"flat": 3.0, "root": math.sqrt(width), "loss": width}]}
        for width in (32, 64, 256)
    ]
    slopes = slopes_of(runs)
    assert slopes["flat"] == [pytest.approx(0)]
    assert slopes["root"] == [pytest.approx(0.5)]
    found = verdict("without", slopes, 0.25)
    assert (found["verdict"], found["grows_most"], found["slope"]) == ("grow", "root", pytest.approx(0.5))
    assert verdict("without", slopes, 0.6)["verdict"] == "level"
    assert verdict("without", {"root": [-0.5]}, 0.25)["verdict"] == "shrink"
    assert verdict("without", {}, 0.25)["verdict"] == "diverged"


def test_transfer_makes_growing_activations_constant(run_stage: Any, tokens: Artifact) -> None:
    report = run_stage("train.coord-check", CHECK, {"tokens": tokens})
    found = read_json(report.file("coord_check.json"))
    with_transfer, without = found["slopes"]["with transfer"], found["slopes"]["without"]
    # Initial logits are sums over the width: they grow with its root unless the variance is divided by it.
    assert without["output logits"][0] == pytest.approx(0.5, abs=0.15)
    assert with_transfer["output logits"][0] == pytest.approx(0, abs=0.15)
    assert [verdict["verdict"] for verdict in found["verdicts"]][1] == "grow"
    assert max(values[-1] for values in with_transfer.values()) < 0.25
    assert [len(run["steps"]) for run in found["runs"]] == [3] * 4
    page = report.file("coord_check.html").read_text()
    assert page.count("<svg") == 2 * len(with_transfer)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    with pytest.raises(ConfigError, match=r"is a report of train.coord-check, not of train.sweep"):
        run_stage("train", {"preset": "smoke", "steps": 1}, {"tokens": tokens, "proxy": report})


def test_a_killed_check_ends_with_the_same_bytes(
    run_stage: Any,
    store: Any,
    tokens: Artifact,
    contents: Callable[[Artifact], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = CHECK | {"steps": 1, "scales": [1, 2]}
    report = run_stage("train.coord-check", short, {"tokens": tokens})
    expected = contents(report)
    store.remove(report)

    class PowerFailureError(Exception):
        pass

    def fail(runs: Any) -> Any:
        raise PowerFailureError

    with monkeypatch.context() as patch, pytest.raises(PowerFailureError):
        patch.setattr(longcat.stages.train.coord_check.run, "page", fail)
        run_stage("train.coord-check", short, {"tokens": tokens})
    assert contents(run_stage("train.coord-check", short, {"tokens": tokens})) == expected


def test_invalid_widths(run_stage: Any, tokens: Artifact) -> None:
    with pytest.raises(ConfigError, match=r"num_attention_heads = 2 times 1.25 is not an integer"):
        run_stage("train.coord-check", CHECK | {"scales": [1, 1.25]}, {"tokens": tokens})
    with pytest.raises(ConfigError, match="differ from each other"):
        run_stage("train.coord-check", CHECK | {"scales": [1, 1]}, {"tokens": tokens})


def test_the_table_of_transfer_is_measured(run_stage: Any, tokens: Artifact) -> None:
    kinds = {
        "embedding": {"initial_std": 0.5},
        "router": {"learning_rate_factor": 4.0},
        "vector": {"weight_decay": 0.2},
    }
    report = run_stage("train.coord-check", CHECK | {"scales": [1, 2, 4], "kinds": kinds}, {"tokens": tokens})
    assert report.manifest.metrics["follows_table"] is True
    rows = {row["kind"]: row for row in read_json(report.file("coord_check.json"))["exponents_by_kind"]}
    expected = {"embedding": (0, 0), "hidden": (-0.5, -1), "router": (-0.5, -1), "unembedding": (-0.5, -1)}
    for kind, (std, rate) in expected.items():
        assert rows[kind]["initial_std"] == pytest.approx(std, abs=0.06), kind
        assert rows[kind]["learning_rate"] == pytest.approx(rate, abs=1e-3), kind
    assert rows["vector"]["learning_rate"] == pytest.approx(0, abs=1e-3)


def test_a_kind_that_is_not_scaled_is_noticed(
    run_stage: Any, tokens: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = longcat.stages.train.coord_check.run
    original = module.build_optimizer

    def wrong(model: Any, options: Any, kinds: Any, scale: float) -> Any:
        optimizer = original(model, options, kinds, scale)
        for group in optimizer.param_groups:
            group["factor"] = 1.0 if group["kind"] == "router" else group["factor"]
        return optimizer

    monkeypatch.setattr(module, "build_optimizer", wrong)
    report = run_stage("train.coord-check", CHECK, {"tokens": tokens})
    assert report.manifest.metrics["follows_table"] is False


def test_the_rule_of_muon_keeps_activations_constant(run_stage: Any, tokens: Artifact) -> None:
    check = CHECK | {"steps": 4, "learning_rate": 2e-2, "optimizer": {"kind": "muon", "muon": {"scale": "spectral"}}}
    report = run_stage("train.coord-check", check, {"tokens": tokens})
    found = read_json(report.file("coord_check.json"))["slopes"]
    largest = {
        mode: max(values[-1] for name, values in slopes.items() if name != "loss") for mode, slopes in found.items()
    }
    assert largest["with transfer"] < 0.25 < largest["without"]
    assert report.manifest.metrics["follows_table"] is True
    rows = {row["kind"]: row for row in read_json(report.file("coord_check.json"))["exponents_by_kind"]}
    assert rows["hidden"]["learning_rate"] == pytest.approx(0, abs=1e-3)
    assert rows["router"]["learning_rate"] == pytest.approx(-1, abs=1e-3)
    heads = CHECK | {"optimizer": {"kind": "muon", "muon": {"per_head": True}}}
    with pytest.raises(ConfigError, match=r"per_head = true"):
        run_stage("train.coord-check", heads, {"tokens": tokens})


def test_ngram_tables_are_read_by_row(run_stage: Any, tokens: Artifact) -> None:
    check = CHECK | {"preset": "tiny-ngram", "scales": [1, 2], "steps": 1, "optimizer": {"kind": "muon"}}
    report = run_stage("train.coord-check", check, {"tokens": tokens})
    rows = {row["kind"]: row for row in read_json(report.file("coord_check.json"))["exponents_by_kind"]}
    assert rows["embedding"]["learning_rate"] == pytest.approx(0, abs=1e-3)
    assert rows["hidden"]["learning_rate"] == pytest.approx(-0.5, abs=1e-3)
