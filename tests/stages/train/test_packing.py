"""Packing and loss across documents, as options of a training run."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.stages.formats.checkpoint import read_model
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state
from longcat.stages.formats.training_windows import training_windows
from longcat.stages.formats.validation_windows import validation_windows
from longcat.stages.formats.windows import IGNORED, open_tokens

PLAIN: dict[str, Any] = {"hidden_z_loss": 0.0, "mtp_weight": 0.0}


def mean_loss(model: LongcatFlash, rows: list[Any]) -> float:
    """Cross entropy document by document, without packing: every piece alone."""
    losses: list[float] = []
    for row in rows:
        ends = [*row.starts[1:].tolist(), len(row.ids) - 1]
        for start, end in zip(row.starts.tolist(), ends, strict=True):
            with torch.no_grad():
                logits = model(torch.from_numpy(row.ids[None, start:end])).logits[0]
            surprise = -logits.float().log_softmax(-1).gather(1, torch.from_numpy(row.ids[start + 1 : end + 1, None]))
            trained = np.ones(end - start, bool) if row.trained is None else row.trained[start:end]
            losses += surprise[:, 0][torch.from_numpy(trained)].tolist()
    return float(np.mean(losses))


@pytest.mark.parametrize("micro", [4, 1])
@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("packing", ["joined", "best_fit"])
def test_the_loss_of_a_step_is_that_of_its_targets(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], packing: str, across: bool, micro: int
) -> None:
    """With a learning rate of almost nothing the last step has the weights of the checkpoint."""
    objective = PLAIN | {"loss_across_documents": across}
    config = {"packing": packing, "objective": objective, "learning_rate": 1e-30, "micro_batch_size": micro, "steps": 2}
    config["balance"] = {"mu": 0.0}
    made = run_stage("train", tiny | config, {"tokens": tokens})
    data = training_windows(tokens.path, sequence_length=32, seed=0, packing=packing, across_documents=across)
    rows = [data.sample(number) for number in range(4, 8)]
    assert all((row.trained is None) == (packing == "joined" and across) for row in rows)
    records = read_metrics(made.file("metrics.jsonl"))
    assert records[1]["loss"] == pytest.approx(mean_loss(read_model(made), rows), abs=2e-6)
    state = read_state(made).data
    assert state is not None and state.packing == packing


def test_the_packing_is_told_before_training_and_in_the_metrics(
    run_stage: Any, make_tokens: Any, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """33 tokens a sequence: 30 documents of 20, one a sequence, and 30 of 33, which fill one."""
    tokens = make_tokens([20, 33] * 30)
    with caplog.at_level(logging.INFO):
        made = run_stage("train", tiny | {"packing": "best_fit", "steps": 1}, {"tokens": tokens})
    assert made.manifest.metrics["packing"] == {
        "kind": "best_fit",
        "sequence_length": 32,
        "sequences": 60,
        "waste": round(13 / 64, 6),
        "documents": 60,
        "longer_documents": 0,
        "cut_documents": 0,
        "cut_fraction": 0.0,
    }
    assert any(
        "best_fit packing: 60 sequences of 32 tokens an epoch, 20.31% padding" in line for line in caplog.messages
    )
    joined = run_stage("train", tiny | {"steps": 1}, {"tokens": tokens}).manifest.metrics["packing"]
    assert joined["kind"] == "joined" and joined["waste"] == 0 and joined["cut_documents"] > 30


def test_validation_has_no_first_tokens_without_the_loss_across_documents(run_stage: Any, tokens: Artifact) -> None:
    """Five documents of 60 tokens, in windows of 50."""
    file = open_tokens(tokens.path, "validation")
    everything = validation_windows(file, 50, 10)
    within = validation_windows(file, 50, 10, across_documents=False)
    rows, columns = np.nonzero(everything.targets != within.targets)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(1, 9), (2, 19), (3, 29), (4, 39)]
    assert (within.targets[rows, columns] == IGNORED).all()
    assert (everything.tokens, within.tokens, within.filled) == (299, 295, 50)
