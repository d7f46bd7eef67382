"""A dense checkpoint becomes one with sparse attention: its indexers are warmed up, then everything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longcat.pipeline.errors import ConfigError
from longcat.stages.formats.checkpoint import read_model
from longcat.stages.formats.metrics import read_metrics

LSA: dict[str, Any] = {
    **{"kind": "lsa", "index_topk": 16, "index_n_heads": 2, "index_head_dim": 16},
    **{"index_init_tokens": 2, "index_local_tokens": 6},
}


def phase(attention: Any, steps: int, sequence_length: int = 64) -> dict[str, Any]:
    return {"sequence_length": sequence_length, "attention": attention, "steps": steps, "batch_size": 2}


def extension(*phases: dict[str, Any], **values: Any) -> dict[str, Any]:
    common = {"device": "cpu", "threads": 1, "long_document_fraction": 0, "learning_rate": 1e-2, "checkpoint_every": 2}
    return common | {"phases": list(phases)} | values


HALF = {"dtype": "bfloat16", "activation_checkpointing": "block"}


@pytest.mark.parametrize("changes", [{}, pytest.param(HALF, marks=pytest.mark.slow)])
def test_the_warm_up_trains_the_indexers_alone_and_then_everything_is_trained(
    changes: dict[str, Any], run_stage: Any, tiny: dict[str, Any], make_tokens: Any
) -> None:
    tokens = make_tokens([*range(20, 100), 300, 400])
    base = run_stage("train", tiny | {"steps": 4}, {"tokens": tokens})
    inputs = {"checkpoint": base, "tokens": tokens}
    warm = run_stage("extend", extension(phase(LSA | {"distillation": "warm-up"}, 12), **changes), inputs)
    before, after = read_model(base).state_dict(), read_model(warm).state_dict()
    assert after.keys() - before.keys() == {
        f"model.layers.0.self_attn.0.indexer.{name}.weight" for name in ("wq_b", "wk", "k_norm", "weights_proj")
    }
    assert all(torch.equal(after[name], value) for name, value in before.items())
    records = read_metrics(warm.path / "metrics.jsonl")
    losses = [record["index_loss"] for record in records]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert all(0 < record["index_attention_mass"] <= 1 for record in records)
    assert all(0 < record["index_precision"] <= 1 and record["attention_entropy"] > 0 for record in records)
    second = run_stage(
        "extend",
        extension(phase({"kind": "lsa", "distillation": "sparse"}, 2), **changes),
        inputs | {"checkpoint": warm},
    )
    sparse = read_model(second)
    assert sparse.config.mixer(1).options.index_topk == 16
    moved = {name for name, value in sparse.state_dict().items() if not torch.equal(value, after[name])}
    assert {"lm_head.weight", "model.layers.0.self_attn.0.indexer.wk.weight"} <= moved


def test_both_phases_in_one_run(run_stage: Any, tiny: dict[str, Any], make_tokens: Any) -> None:
    tokens = make_tokens([*range(20, 100), 300, 400])
    base = run_stage("train", tiny | {"steps": 2}, {"tokens": tokens})
    phases = phase(LSA | {"distillation": "warm-up"}, 2), phase(LSA | {"distillation": "sparse"}, 2)
    model = read_model(run_stage("extend", extension(*phases), {"checkpoint": base, "tokens": tokens}))
    assert model.config.attention == {"kind": "lsa", "distillation": "sparse"}
    assert not torch.equal(model.lm_head.weight, read_model(base).lm_head.weight)


REFUSED: list[tuple[dict[str, Any], str]] = [
    (phase(LSA, 1), "phases.0.attention: lsa: distillation = 'none': the indexers of a model with 'mla' are new"),
    (phase(LSA | {"distillation": "sparse"}, 1), "in a phase before this one, with distillation: warm-up"),
    (phase({"pattern": ["mla", LSA]}, 1), "slot 1 attends to the positions of slot 0, which is 'mla'"),
    (phase(LSA | {"index_topk": 1024}, 1), "index_topk = 1024 exceeds max_position_embeddings = 512"),
    (phase({"kind": "topk", "k": 64}, 1), "tokens attend to 64 positions, and sequences have 64"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_a_conversion_that_cannot_work_is_refused_before_the_first_step(
    wrong: dict[str, Any], message: str, run_stage: Any, tiny: dict[str, Any], make_tokens: Any
) -> None:
    tokens = make_tokens([*range(20, 60)])
    base = run_stage("train", tiny | {"steps": 1}, {"tokens": tokens})
    with pytest.raises(ConfigError, match=message):
        run_stage("extend", extension(wrong), {"checkpoint": base, "tokens": tokens})
