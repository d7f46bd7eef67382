"""Which configuration fields are not part of the id of an artifact; a new field must be added here."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import BaseModel

from longcat.pipeline.config import build_config, identity_values, is_runtime
from longcat.pipeline.stage import registry
from longcat.stages import device

LAUNCH = {"nproc_per_node", "nnodes", "node_rank", "rendezvous", "collective_timeout"}

# Fields of training that change no bit of the weights, and why. `tests/stages/train/test_changed_settings.py` changes
# each of them in the middle of a run.
TRAINING = LAUNCH | {
    "parallel",  # as the number of processes: sums are taken in another order
    "loader_workers",  # a batch is a function of its number
    "checkpoint_every",  # a save copies; only a rewind after a divergence depends on which saves there are
    "keep_last",  # as checkpoint_every
    "keep_every",  # as checkpoint_every; more files in the artifact
    "activation_checkpointing",  # the same operations on the same values, once more
    "watch",  # reads figures that are there anyway
    "stability.every",  # reads; alpha of the balance loss moves by balance_loss.every
    "stability.layer_groups",  # how figures that were read are grouped
    "ngram_share",  # refuses a model, changes none
    "stability.corruption_every",  # one layer once more, aside
}
# The validation loss is a figure of `train` and `extend`, and decides in a sweep.
EVALUATION = {"evaluation"}
# Sequences per forward pass: sums are taken in another order, also over processes (`parallel`).
MICRO_BATCH = {"micro_batch_size"}

# Fields that control how a stage runs and change no byte of its output.
RUNTIME: dict[str, set[str]] = {
    "data.collect.urls": {"delay_seconds", "hosts_at_once"},
    "data.dedup": {"memory_mib"},
    "data.pack": {"encoder"},
    "train": TRAINING | EVALUATION | MICRO_BATCH,
    "train.publish": {"root", "settings"},  # the digest of the save is in the id
    "train.sweep": TRAINING | MICRO_BATCH,
    # The values of a schedule determine the result, not its name.
    "extend": TRAINING | EVALUATION | {f"phases.{name}" for name in MICRO_BATCH} | {"length_schedule"},
}

STAGES = [name for name in registry.names() if not name.startswith("toy.")]


def runtime_fields(model: type[BaseModel]) -> set[str]:
    """Paths of marked fields, with the fields of models inside, joined by dots."""
    found = set()
    for name, info in model.model_fields.items():
        if is_runtime(info):
            found.add(name)
        else:
            found |= {f"{name}.{inner}" for below in models_in(info.annotation) for inner in runtime_fields(below)}
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


@pytest.mark.parametrize("name", STAGES)
def test_every_field_is_classified(name: str) -> None:
    assert runtime_fields(registry.get(name).config) == RUNTIME.get(name, set())


@pytest.mark.parametrize(
    ("stage", "values", "changes"),
    [
        ("data.dedup", {}, {"memory_mib": 300}),
        ("train", {"preset": "tiny", "steps": 1}, {"keep_last": 3, "checkpoint_every": 7, "micro_batch_size": 2}),
        ("train", {"preset": "tiny", "steps": 1}, {"evaluation": {"every": 2}, "stability": {"every": 0}}),
        ("train", {"preset": "tiny", "steps": 1}, {"activation_checkpointing": "block"}),
        (
            "extend",
            {"phases": [{"sequence_length": 64, "rope_theta": 1e4, "steps": 1}]},
            {"phases": [{"sequence_length": 64, "rope_theta": 1e4, "steps": 1, "micro_batch_size": 2}]},
        ),
        ("data.collect.urls", {"url_file": "x"}, {"hosts_at_once": 2, "delay_seconds": 0.0}),
    ],
)
def test_a_runtime_option_does_not_change_the_id(stage: str, values: dict[str, Any], changes: dict[str, Any]) -> None:
    kind = registry.get(stage).config
    plain, changed = (build_config(kind, each, "test") for each in (values, values | changes))
    assert identity_values(plain) == identity_values(changed)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("train", {"stability": {"spikes": {"action": "skip"}}}),
        ("train", {"balance_loss": {"every": 7}}),
        ("train", {"learning_rate": 1e-4}),
        ("train", {"batch_size": 4}),
        ("train", {"compile": True}),
        ("train", {"threads": 2}),
        ("train.sweep", {"evaluation": {"windows": 2}}),
    ],
)
def test_an_option_that_changes_bits_changes_the_id(stage: str, changes: dict[str, Any]) -> None:
    kind, values = registry.get(stage).config, {"preset": "tiny", "steps": 1}
    plain, changed = (build_config(kind, each, "test") for each in (values, values | changes))
    assert identity_values(plain) != identity_values(changed)


@pytest.mark.parametrize(
    ("stage", "values"),
    [("train", {"preset": "tiny", "steps": 1}), ("evaluate", {}), ("train.coord-check", {"preset": "tiny"})],
)
@pytest.mark.parametrize(("cuda", "found"), [(False, "cpu"), (True, "cuda")])
def test_auto_is_resolved_before_the_id(
    monkeypatch: pytest.MonkeyPatch, stage: str, values: dict[str, Any], cuda: bool, found: str
) -> None:
    monkeypatch.setattr(device, "has_cuda", lambda: cuda)
    kind = registry.get(stage).config
    config: Any = build_config(kind, values, "test").resolved()
    asked: Any = build_config(kind, values | {"device": found}, "test").resolved()
    assert config.device == found
    assert identity_values(config) == identity_values(asked)
    if "dtype" in kind.model_fields:
        assert config.dtype == ("bfloat16" if cuda else "float32")
        other = build_config(kind, values | {"dtype": "bfloat16" if not cuda else "float32"}, "test").resolved()
        assert identity_values(other) != identity_values(config)


def test_explicit_values_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_cuda", lambda: True)
    config: Any = build_config(registry.get("evaluate").config, {"device": "cpu"}, "test").resolved()
    assert (config.device, config.dtype) == ("cpu", "float32")
