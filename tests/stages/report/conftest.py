"""A synthetic run with every field that a run may write."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.store import Store

Records = Callable[..., Iterator[dict[str, Any]]]
MakeCheckpoint = Callable[..., Artifact]
StartRun = Callable[..., Path]

EXPERTS, ZERO_EXPERTS, TOPK = 12, 6, 6
TOKENS_PER_STEP = 4096


def records(
    steps: int, *, layers: int = 3, seed: int = 0, rich: bool = True, load_every: int = 10
) -> Iterator[dict[str, Any]]:
    """Lines of metrics.jsonl: falling loss, a controller that reaches its target, one spike with its consequences."""
    random = np.random.default_rng(seed)
    experts = EXPERTS + ZERO_EXPERTS
    target = TOPK * EXPERTS / experts
    taste_LE = random.normal(0, 0.9, (layers, experts))
    for step in range(1, steps + 1):
        done = step / steps
        settled = np.exp(-step / (0.05 * steps + 1))
        record: dict[str, Any] = {
            "step": step,
            "tokens": step * TOKENS_PER_STEP,
            "loss": 2.6 + 6.4 * (1 + 60 * done) ** -0.55 + float(random.normal(0, 0.04)),
            "learning_rate": 1e-3
            * min(1, step / (0.05 * steps + 1))
            * (1 if done < 0.8 else max(0.1, (1 - done) / 0.2)),
            "gradient_norm": 0.35 + 1.6 * float(settled) + abs(float(random.normal(0, 0.06))),
            "balance_gain": 0.3 * (1 - done / 2),
            "active_experts": [
                target + float(settled) * (1.1 - 1.4 * layer / layers) + float(random.normal(0, 0.02))
                for layer in range(layers)
            ],
        }
        if rich:
            record |= _rich(record, random, layers, settled)
        if rich and step % load_every == 0:
            shares_LE = np.exp(taste_LE * (settled + 0.12) + random.normal(0, 0.08, (layers, experts)))
            slots = TOKENS_PER_STEP * TOPK * shares_LE / shares_LE.sum(axis=1, keepdims=True)
            record["expert_load"] = np.rint(slots).astype(int).tolist()
        if step % max(1, steps // 20) == 0:
            record["validation_loss"] = record["loss"] + 0.05
        if rich and step == steps // 3:
            record |= {"gradient_norm": 9.0, "loss": record["loss"] + 1.5, "skipped": True}
        if rich and step == steps // 2:
            record["rewound"] = {"from_step": step, "to_step": step - 2, "samples_skipped": 16}
        yield record


def _rich(record: dict[str, Any], random: np.random.Generator, layers: int, settled: float) -> dict[str, Any]:
    def around(middle: float, spread: float = 0.05) -> float:
        return middle * float(np.exp(random.normal(0, spread)))

    groups = ("embedding", "attention", "dense_ffn", "experts", "router", "output")
    return {
        "active_experts_std": [around(0.9 + 0.1 * layer) for layer in range(layers)],
        "mtp_loss": record["loss"] + 0.5,
        "hidden_z_loss": around(12 + 40 * settled),
        "balance_loss": around(1.02 + 0.3 * settled, 0.01),
        "balance_coefficient": 1e-4,
        "stability": {
            "balance_gradient_ratio": [around(0.004 * (layer + 1) + 0.15 * settled, 0.3) for layer in range(layers)],
            "router_cosine": [0.02 + 0.2 * float(settled) * (layer + 1) / layers for layer in range(layers)],
            "largest_activation": [around(20 + 12 * layer) for layer in range(layers)],
            "gradient_rms": {group: around(1e-5 * (1 + place), 0.2) for place, group in enumerate(groups)},
            "parameter_rms": {group: 0.02 + 0.004 * place for place, group in enumerate(groups)},
        },
    }


def run_log(steps: int, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Lines of the run log of the same run."""
    random = np.random.default_rng(seed)
    yield {"event": "start", "name": "synthetic", "stage": "train"}
    yield {
        "event": "watch",
        "experts": EXPERTS,
        "zero_experts": ZERO_EXPERTS,
        "target_active_experts": TOPK * EXPERTS / (EXPERTS + ZERO_EXPERTS),
        "device": "cpu",
        "dtype": "float32",
        "devices": 1,
        "peak_flops": 1.4e11,
        "trackers": [],
    }
    for step in range(1, steps + 1):
        seconds = 0.4 * float(np.exp(abs(random.normal(0, 0.05))))
        speed = TOKENS_PER_STEP / seconds
        line = {"event": "step", "step": step, "seconds": seconds, "tokens_per_second": speed}
        yield line | {"mfu": speed / 22_000, "memory_bytes": 2_100_000_000 + 1000 * step}


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        for line in lines:
            stream.write(json.dumps(line) + "\n")
    return path


@pytest.fixture
def made_up() -> Records:
    """The lines of metrics.jsonl of a run; see `records`."""
    return records


@pytest.fixture
def metrics_file(tmp_path: Path) -> Callable[[Iterable[dict[str, Any]]], Path]:
    """Write a metrics.jsonl."""
    return lambda lines: write_lines(tmp_path / "alone" / "metrics.jsonl", lines)


@pytest.fixture
def start_run(store: Store) -> StartRun:
    """Put a run in progress into the store; return its metrics file."""

    def start(identifier: str, lines: Iterable[dict[str, Any]], *, name: str, stretch: str = "training") -> Path:
        log = [{"event": "start", "name": name, "stage": "train"}, *list(run_log(20))[1:]]
        write_lines(store.log_path(identifier), log)
        return write_lines(store.staging(identifier).work / stretch / "metrics.jsonl", lines)

    return start


@pytest.fixture
def make_checkpoint(store: Store, publish_artifact: Callable[..., Artifact]) -> MakeCheckpoint:
    """Publish a checkpoint with only a config.json and, unless None, these metrics."""

    def make(lines: Iterable[dict[str, Any]] | None, *, name: str, identifier: str = "c0ffee0000000001") -> Artifact:
        def fill(output: Path) -> None:
            model = {"n_routed_experts": EXPERTS, "zero_expert_num": ZERO_EXPERTS, "moe_topk": TOPK}
            (output / "config.json").write_text(json.dumps(model))
            if lines is not None:
                write_lines(output / "metrics.jsonl", lines)

        made = publish_artifact(
            identifier,
            "checkpoint",
            "grow" if lines is None else "train",
            fill,
            config={"balance": {"target_active_experts": None}, "note": "</script><b>&"},
            counts={"parameters": 1234},
            metrics={"unigram_loss": 6.0},
            environment={"python": "3.12"},
            duration_seconds=75.0,
        )
        write_lines(store.log_path(identifier), run_log(20))
        store.refs.publish(name, identifier, "checkpoint", "2025-01-01T00:00:00Z")
        return made

    return make
