"""Values by kind of parameter: what they do, how they are found, and what keeps them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longcat.cli.app import run
from longcat.model.config import ModelConfig
from longcat.model.parameter_kinds import parameter_kind
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.model.width import WIDTHS, widened
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.runner import Session, execute
from longcat.pipeline.store import Store
from longcat.stages.formats.training_state import read_state
from longcat.stages.train.config import OptimizerOptions, TrainConfig
from longcat.stages.train.joins.resume_from import plan_resumption
from longcat.stages.train.optim.adamw import build_optimizer, set_learning_rate
from longcat.stages.train.optim.kinds import KindsOptions, initial_std, table
from longcat.stages.train.optim.transfer import own_settings

KINDS: dict[str, Any] = {
    "embedding": {"learning_rate_factor": 2.0, "initial_std": 0.5, "weight_decay": 0.0},
    "hidden": {"learning_rate_factor": 0.5},
    "router": {"learning_rate_factor": 4.0, "initial_std": 0.01, "weight_decay": 0.1},
    "vector": {"weight_decay": 0.2},
}
WIDE = {name: getattr(widened(load_preset("smoke"), 4), name) for name in WIDTHS}


def test_one_step_of_every_kind_worked_out_by_hand() -> None:
    """All weights are 0.5, all gradients 3: the first step of AdamW is w - rate * (1 + decay * w).

    The base rate is 0.1, the base decay 0.3, and the model is 4 times as wide as the one of the values.
    """
    parts = {
        "num_nextn_predict_layers": 1,
        "gating_residual": True,
        "zero_expert_types": {"constant": 1, "identity": 1},
    }
    model = LongcatFlash(ModelConfig(**(load_preset("smoke").model_dump() | parts))).double()
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer = build_optimizer(model, OptimizerOptions(weight_decay=0.3), KindsOptions(**KINDS), 4)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    expected = {
        "embedding": 0.3,  # rate 0.1 * 2, decay 0
        "hidden": 0.485625,  # rate 0.1 * 0.5 / 4 = 0.0125, decay 0.3
        "router": 0.395,  # rate 0.1 * 4 / 4 = 0.1, decay 0.1
        "unembedding": 0.47125,  # rate 0.1 / 4 = 0.025, decay 0.3
        "vector": 0.39,  # rate 0.1, decay 0.2, which the base does not apply to norms
    }
    seen = set()
    for name, parameter in model.named_parameters():
        kind = parameter_kind(model.config, name, parameter.ndim)
        torch.testing.assert_close(
            parameter.detach(), torch.full_like(parameter, expected[kind]), rtol=1e-14, atol=0, msg=name
        )
        seen.add(kind)
    assert seen == expected.keys()


def test_deviations_and_the_table_worked_out_by_hand() -> None:
    kinds = KindsOptions(**KINDS)
    assert initial_std(0.02, kinds, 4) == {"embedding": 0.5, "hidden": 0.01, "router": 0.005, "unembedding": 0.01}
    rows = table(kinds, 4, base_std=0.02, learning_rate=0.1, base_decay=0.3)
    assert [tuple(row.values()) for row in rows] == [
        ("embedding", 0.5, 0.2, 0.0),
        ("hidden", 0.01, 0.0125, 0.3),
        ("router", 0.005, 0.1, 0.1),
        ("unembedding", 0.01, 0.025, 0.3),
        ("vector", None, 0.1, 0.2),
    ]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            {"norms": {"weight_decay": 0}},
            r"unknown key 'kinds.norms', known: embedding, hidden, router, unembedding, v",
        ),
        ({"vector": {"initial_std": 1.0}}, r"'kinds.vector': norms start at one .* so initial_std does not exist"),
        (
            {"router": {"learning_rate": 2.0}},
            r"unknown key 'kinds.router.learning_rate', did you mean 'learning_rate_f",
        ),
        ({"hidden": {"initial_std": -0.1}}, r"'kinds.hidden.initial_std'.*\(found -0.1\)"),
    ],
)
def test_what_does_not_exist_is_refused(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], kinds: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage("train", tiny | {"kinds": kinds}, {"tokens": tokens})


def test_a_kind_without_parameters_is_refused(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    tied = tiny | {"model": {"tie_word_embeddings": True}}
    with pytest.raises(ConfigError, match=r"kinds.unembedding.weight_decay: the model has no parameter of this kind"):
        run_stage("train", tied | {"kinds": {"unembedding": {"weight_decay": 0.0}}}, {"tokens": tokens})


def test_a_sweep_finds_them_and_the_wide_model_takes_them(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """The grid has one value that trains and one that diverges, so the best point is known."""
    grid = ["kinds.router.learning_rate_factor=1e30,2.0", "kinds.embedding.initial_std=0.5"]
    kinds = {"kinds": {"hidden": {"weight_decay": 0.25}}}
    swept = run_stage("train.sweep", tiny | kinds | {"steps": 3, "grid": grid}, {"tokens": tokens})
    best = swept.manifest.metrics["best"]
    assert (best["kinds.router.learning_rate_factor"], best["kinds.embedding.initial_std"]) == (2.0, 0.5)

    del tiny["learning_rate"]
    wide = tiny | {"model": dict(WIDE), "steps": 1, "kinds": {"vector": {"learning_rate_factor": 0.0}}}
    trained = run_stage("train", wide, {"tokens": tokens, "proxy": swept})
    state = read_state(trained)
    assert state.width_scale == 4
    assert state.kinds == {
        "embedding": {"initial_std": 0.5},
        "hidden": {"weight_decay": 0.25},
        "router": {"learning_rate_factor": 2.0},
        "vector": {"learning_rate_factor": 0.0},
    }
    assert trained.manifest.metrics["transfer"]["kinds.router.learning_rate_factor"] == 2.0
    rows = {row["kind"]: row for row in trained.manifest.metrics["by_kind"]}
    assert rows["router"]["learning_rate"] == pytest.approx(3e-3 * 2 / 4)
    assert (rows["embedding"]["initial_std"], rows["hidden"]["weight_decay"]) == (0.5, 0.25)
    weights = load_file(trained.file("model.safetensors"))
    assert weights["model.embed_tokens.weight"].std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(weights["model.norm.weight"], torch.ones(WIDE["hidden_size"]))  # frozen

    # The plan shows the same rows.
    given = [f"{key}={value}" for key, value in WIDE.items()]
    options = [word for each in given for word in ("--set", f"model.{each}")]
    command = [
        "train",
        "--tokens",
        tokens.id,
        "--preset",
        "smoke",
        "--steps",
        "1",
        "--transfer-from",
        swept.id,
        *options,
    ]
    assert run(["--store", str(store.root), *command, "--dry-run", "--json"]) == 0
    (step,) = json.loads(capfd.readouterr().out)["steps"]
    shown = {row["kind"]: row for row in step["by_kind"]}
    assert {kind: row for kind, row in shown.items() if kind != "vector"} == {
        kind: row for kind, row in rows.items() if kind != "vector"
    }
    assert run(["--store", str(store.root), *command, "--dry-run"]) == 0
    assert "train: values by kind of parameter" in capfd.readouterr().out


def test_keep_own_leaves_a_value_of_the_proxy_out(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    proxy = run_stage("train", tiny | {"kinds": KINDS, "steps": 1}, {"tokens": tokens})
    own = {"keep_own": ["kinds.router.weight_decay", "kinds.vector.weight_decay"]}
    kinds = read_state(run_stage("train", tiny | own | {"steps": 1}, {"tokens": tokens, "proxy": proxy})).kinds
    assert kinds == {
        "embedding": KINDS["embedding"],
        "hidden": KINDS["hidden"],
        "router": {"learning_rate_factor": 4.0, "initial_std": 0.01},
    }
    assert "kinds.router.weight_decay" in own_settings(TrainConfig(steps=1, kinds=KindsOptions(**KINDS)))


def test_two_runs_equal_one_and_a_killed_run_resumes(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], interrupt: Any, store: Store
) -> None:
    """The second run does not name the kinds."""
    shared = {"balance_loss": {"coefficient": 1e-3}, "schedule": {"total_steps": 8}}
    whole = run_stage("train", tiny | shared | {"kinds": KINDS}, {"tokens": tokens})
    expected = whole.file("model.safetensors").read_bytes()
    first = run_stage("train", tiny | shared | {"kinds": KINDS, "steps": 5}, {"tokens": tokens})
    onward = tiny | shared | {"preset": None, "steps": 3}
    second = run_stage("train", onward, {"tokens": tokens, "checkpoint": first})
    assert second.file("model.safetensors").read_bytes() == expected
    assert read_state(second).kinds == read_state(first).kinds == KINDS
    assert read_state(second).config["kinds"]["router"]["learning_rate_factor"] == 4.0
    plain = run_stage("train", tiny | shared, {"tokens": tokens})
    assert plain.file("model.safetensors").read_bytes() != expected

    store.remove(whole)
    interrupt(tiny | shared | {"kinds": KINDS}, after=5)
    again = run_stage("train", tiny | shared | {"kinds": KINDS}, {"tokens": tokens})
    assert again.file("model.safetensors").read_bytes() == expected


def test_a_run_from_a_checkpoint_keeps_and_changes_them(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], session: Session
) -> None:
    first = run_stage("train", tiny | {"kinds": KINDS, "steps": 2}, {"tokens": tokens}, "first")
    grown = run_stage("grow", {"factor": 2}, {"checkpoint": first})
    assert read_state(grown).kinds == KINDS
    phase = {"sequence_length": 32, "steps": 1, "batch_size": 2}
    extended = run_stage(
        "extend",
        {"phases": [phase], "long_document_fraction": 0.0, "device": "cpu", "threads": 1},
        {"tokens": tokens, "checkpoint": grown},
    )
    assert read_state(extended).kinds == KINDS
    onward = tiny | {"preset": None, "steps": 1}
    changed = {"router": {"weight_decay": 0.0}}
    trained = run_stage("train", onward | {"kinds": changed}, {"tokens": tokens, "checkpoint": extended})
    assert read_state(trained).kinds == KINDS | {"router": KINDS["router"] | {"weight_decay": 0.0}}
    message = r"kinds.router.initial_std = 0.7 is for a new model"
    with pytest.raises(ConfigError, match=message):
        wrong = {"router": {"initial_std": 0.7}}
        run_stage("train", onward | {"kinds": wrong}, {"tokens": tokens, "checkpoint": extended})
    for plan in plan_resumption(session, "first", {"steps": 3, "kinds": {"hidden": {"learning_rate_factor": 1.0}}}, {}):
        outcome = execute(plan, session)
    assert read_state(outcome.artifact).kinds == KINDS | {"hidden": {"learning_rate_factor": 1.0}}
