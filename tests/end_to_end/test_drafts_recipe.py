"""The recipe `drafts`, with smaller sizes: its model has a layer for drafts, and the engine's drafts are accepted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from longcat.pipeline.store import Store
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams

SMALL = (
    *("crawl.limit=40", "tokenizer.vocab_size=600", "model.preset=smoke", "model.steps=60"),
    *(
        "model.schedule={total_steps: 60}",
        "model.sequence_length=64",
        "evaluation.windows=4",
        "evaluation.needle.trials=1",
    ),
)
GREEDY = SamplingParams(max_tokens=48, temperature=0, ignore_eos=True)


def written(engine: InferenceEngine) -> list[int]:
    return [token for delta in engine.generate(engine.tokenizer.encode("The "), GREEDY) for token in delta.token_ids]


def test_the_engine_drafts_with_the_trained_layer(tmp_path: Path) -> None:
    options = [text for setting in SMALL for text in ("--set", setting)]
    command = [sys.executable, "-m", "longcat.cli", "--store", str(tmp_path), "--quiet", "run", "drafts", *options]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert finished.returncode == 0, finished.stderr
    folder = Store(tmp_path).resolve("drafts-model").path
    plain = load_engine(folder, device="cpu", threads=1, options=EngineOptions(drafts="off"))
    drafting = load_engine(folder, device="cpu", threads=1, options=EngineOptions(drafts="mtp"))
    assert drafting.model.config.num_nextn_predict_layers == 1
    assert written(drafting) == written(plain)
    assert sum(drafting.stats.accepted) > 0
    assert plain.stats.drafted == []
