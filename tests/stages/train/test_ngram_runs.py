"""Runs of models with n-gram tables: they learn, end with the same bits after a kill, and in any distribution."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longcat.pipeline.artifact import Artifact
from longcat.stages.formats.checkpoint import read_model, read_start
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.train.optim.row_adamw import ROW_KEYS
from tests.stages.train.test_parallel_train import command, sets

Contents = Callable[[Artifact], dict[str, str]]
NGRAM = {"ngram_vocab_size_ratio": 20.57, "emb_neighbor_num": 3, "emb_split_num": 1}
TABLES = "model.embed_tokens.tables"


@pytest.fixture
def config(tiny: dict[str, Any]) -> dict[str, Any]:
    """8 steps of one schedule, saved after 3 and 6; a fixed coefficient, which a join does not measure again."""
    return tiny | {
        "model": NGRAM,
        "ngram_share": 1.0,
        "balance_loss": {"coefficient": 1e-3},
        "schedule": {"total_steps": 8},
    }


def test_it_learns_and_keeps_moments_of_rows_read(run_stage: Any, config: dict[str, Any], tokens: Artifact) -> None:
    trained = run_stage("train", config | {"steps": 40, "schedule": {}}, {"tokens": tokens})
    records = read_metrics(trained.file("metrics.jsonl"))
    assert sum(record["loss"] for record in records[-5:]) / 5 < records[0]["loss"] - 0.5
    model, moments = read_model(trained), read_start(trained).moments
    table = dict(model.named_parameters())[TABLES]
    rows = moments[f"{TABLES}.rows"]
    assert len(rows) == len(rows.unique()) < 0.9 * len(table)
    assert moments[f"{TABLES}.exp_avg"].shape == (len(rows), table.shape[1])
    assert {key for key in ROW_KEYS if f"{TABLES}.{key}" in moments} == set(ROW_KEYS)
    assert all(record["stability"]["gradient_rms"]["embedding"] > 0 for record in records if "stability" in record)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("micro_batch_size", [4, 1])
def test_a_failed_run_ends_with_the_same_bits(
    dtype: str,
    micro_batch_size: int,
    run_apart: Any,
    run_stage: Any,
    interrupt: Any,
    config: dict[str, Any],
    tokens: Artifact,
    contents: Contents,
) -> None:
    config |= {"dtype": dtype, "micro_batch_size": micro_batch_size}
    interrupt(config, after=4)
    assert contents(run_stage("train", config, {"tokens": tokens})) == contents(
        run_apart("train", config, {"tokens": tokens})
    )


def test_micro_batches_give_the_same_up_to_rounding(run_apart: Any, config: dict[str, Any], tokens: Artifact) -> None:
    """The norm counts a row once, although tokens of several micro batches read it."""
    config |= {"optimizer": {"eps": 1e-6}, "balance_loss": {"coefficient": 0.0}}
    runs = [run_apart("train", config | {"micro_batch_size": size}, {"tokens": tokens}) for size in (4, 1)]
    norms = [[line["gradient_norm"] for line in read_metrics(run.file("metrics.jsonl"))] for run in runs]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    tables = [dict(read_model(run).named_parameters())[TABLES] for run in runs]
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-3, atol=1e-5)


def test_a_continued_run_is_the_rest_of_a_whole_one(
    run_apart: Any, config: dict[str, Any], tokens: Artifact, contents: Contents
) -> None:
    whole = run_apart("train", config, {"tokens": tokens})
    half = run_apart("train", config | {"steps": 4}, {"tokens": tokens})
    rest = config | {"steps": 4, "preset": None, "model": {}}
    again = run_apart("train", rest, {"tokens": tokens, "checkpoint": half})
    for name in ("model.safetensors", "training/optimizer.safetensors"):
        assert contents(again)[name] == contents(whole)[name], name


def test_growth_copies_tables_and_their_moments(run_stage: Any, config: dict[str, Any], tokens: Artifact) -> None:
    small = run_stage("train", config, {"tokens": tokens})
    grown = run_stage("grow", {"factor": 2, "moments": "rescale"}, {"checkpoint": small})
    assert torch.equal(
        dict(read_model(grown).named_parameters())[TABLES], dict(read_model(small).named_parameters())[TABLES]
    )
    for key in ROW_KEYS:
        name = f"{TABLES}.{key}"
        assert torch.equal(read_start(grown).moments[name], read_start(small).moments[name])
    on = run_stage("train", config | {"preset": None, "model": {}}, {"tokens": tokens, "checkpoint": grown})
    assert len(read_metrics(on.file("metrics.jsonl"))) == 8


OPTIONS = (
    *("--preset", "smoke", "--steps", "4", "--batch-size", "4", "--micro-batch-size", "1", "--sequence-length", "32"),
    *("--threads", "1", "--device", "cpu", "--checkpoint-every", "2", "--set", "optimizer.eps=1e-6"),
    *("--set", "ngram_share=1"),
    *("--set", "evaluation.windows=3", "--set", "watch.tensorboard=false", "--set", "model.num_layers=2"),
    *(part for key, value in NGRAM.items() for part in ("--set", f"model.{key}={value}")),
)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"data_replicate": 2}, {"context": 2}, {"pipeline": 2}], ids=str)
def test_two_processes_give_the_same(options: dict[str, int], tmp_path: Path, tokens: Artifact) -> None:
    found = []
    for root, more in ((tmp_path / "one", []), (tmp_path / "two", ["--nproc-per-node", "2", *sets(**options)])):
        call = [*command(root, tokens, options=OPTIONS), *more, "--json"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        path = Path(json.loads(done.stdout)["path"])
        tensors = load_file(path / "training/optimizer.safetensors")
        order = tensors[f"{TABLES}.rows"].argsort()
        rows = {key: tensors[f"{TABLES}.{key}"][order] for key in ROW_KEYS}
        found.append((load_file(path / "model.safetensors"), rows, read_metrics(path / "metrics.jsonl")))
    (one, rows_of_one, lines_of_one), (two, rows_of_two, lines_of_two) = found
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    assert torch.equal(rows_of_one["rows"], rows_of_two["rows"])
    assert torch.equal(rows_of_one["step"], rows_of_two["step"])
    for a, b in zip(lines_of_one, lines_of_two, strict=True):
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)
