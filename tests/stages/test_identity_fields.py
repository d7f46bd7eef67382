"""Which configuration fields are not part of the id of an artifact; a new field must be added here."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from longcat.pipeline.config import build_config, identity_values, is_runtime
from longcat.pipeline.stage import registry
from longcat.stages import device

LAUNCH = {"nproc_per_node", "nnodes", "node_rank", "rendezvous", "collective_timeout"}
TRAINING = LAUNCH | {"parallel", "watch", "loader_workers", "checkpoint_every", "keep_last"}

# Fields that control how a stage runs and change no byte of its output.
RUNTIME: dict[str, set[str]] = {
    "data.collect.urls": {"delay_seconds", "hosts_at_once"},
    "data.dedup": {"memory_mib"},
    "data.pack": {"encoder"},
    "train": TRAINING,
    "train.sweep": TRAINING,
    "extend": TRAINING,
}

STAGES = [name for name in registry.names() if not name.startswith("toy.")]


def runtime_fields(model: type[BaseModel]) -> set[str]:
    return {name for name, info in model.model_fields.items() if is_runtime(info)}


@pytest.mark.parametrize("name", STAGES)
def test_every_field_is_classified(name: str) -> None:
    assert runtime_fields(registry.get(name).config) == RUNTIME.get(name, set())


@pytest.mark.parametrize(
    ("stage", "values", "changes"),
    [
        ("data.dedup", {}, {"memory_mib": 300}),
        ("train", {"preset": "tiny", "steps": 1}, {"keep_last": 3, "checkpoint_every": 7}),
        ("data.collect.urls", {"url_file": "x"}, {"hosts_at_once": 2, "delay_seconds": 0.0}),
    ],
)
def test_a_runtime_option_does_not_change_the_id(stage: str, values: dict[str, Any], changes: dict[str, Any]) -> None:
    kind = registry.get(stage).config
    plain, changed = (build_config(kind, each, "test") for each in (values, values | changes))
    assert identity_values(plain) == identity_values(changed)


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
