"""A tiny model on a synthetic corpus: fixtures of all training tests."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.files import read_json
from longcat.pipeline.progress import Bar, SilentBar
from longcat.pipeline.runner import Session
from longcat.pipeline.runner import run_stage as run_in
from longcat.pipeline.store import Store
from longcat.pipeline.tokens import TokenWriter
from longcat.pipeline.unfinished import unfinished_runs
from longcat.stages.train import trainer

VOCABULARY = 61
MakeTokens = Callable[..., Artifact]
Interrupt = Callable[..., str]

# One layer with all parts, batch of 4 x 32 tokens: a few milliseconds per step.
TINY: dict[str, Any] = {
    "preset": "smoke",
    "steps": 8,
    "sequence_length": 32,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "device": "cpu",
    "threads": 1,
    "checkpoint_every": 3,
    "evaluation": {"windows": 4},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_document(generator: np.random.Generator, length: int) -> np.ndarray:
    """Mostly the sequence `next = 5 * previous + 7`, predictable from the previous token, and the end token."""
    ids = np.empty(length, dtype=np.int64)
    ids[0] = generator.integers(4, VOCABULARY)
    jumps = generator.random(length) < 0.1
    wild = generator.integers(4, VOCABULARY, size=length)
    for place in range(1, length):
        ids[place] = wild[place] if jumps[place] else 4 + (5 * ids[place - 1] + 7) % (VOCABULARY - 4)
    ids[-1] = 2
    return ids


def write_tokenizer(path: Path, words: int) -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {f"w{index}": index for index in range(words)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(path))


@pytest.fixture
def make_tokens(publish_artifact: MakeTokens) -> MakeTokens:
    """Publish a tokens artifact with training documents of the given lengths."""

    def make(
        lengths: Sequence[int], *, seed: int = 0, identifier: str = "70ce500000000001", words: int = VOCABULARY
    ) -> Artifact:
        generator = np.random.default_rng(seed)

        def fill(output: Path) -> None:
            for split, chosen in {"train": lengths, "validation": [60] * 5}.items():
                with TokenWriter(output / split, VOCABULARY) as writer:
                    for length in chosen:
                        writer.add_document(make_document(generator, length))
            write_tokenizer(output / "tokenizer.json", words)
            (output / "tokenizer_config.json").write_text("{}")

        return publish_artifact(identifier, "tokens", "data.pack", fill)

    return make


@pytest.fixture
def tokens(make_tokens: MakeTokens) -> Artifact:
    """About 9,000 training tokens in documents of 20 to 99 tokens."""
    return make_tokens([20 + (37 * index) % 80 for index in range(150)])


@pytest.fixture
def tiny() -> dict[str, Any]:
    """Training configuration with a few milliseconds per step."""
    return json.loads(json.dumps(TINY))


@pytest.fixture
def contents() -> Callable[[Artifact], dict[str, str]]:
    """Return the sha256 of every file of an artifact, by path."""

    def of(artifact: Artifact) -> dict[str, str]:
        return {entry["path"]: entry["sha256"] for entry in read_json(artifact.path / "manifest.json")["files"]}

    return of


@pytest.fixture
def run_apart(tmp_path: Path) -> Callable[..., Artifact]:
    """Run a stage as `run_stage`, each time in a store of its own: a run with the same id is not reused."""
    stores = itertools.count()

    def run(name: str, config: dict[str, Any], inputs: dict[str, Artifact]) -> Artifact:
        session = Session(Store(tmp_path / f"apart-{next(stores)}"), engine=LocalEngine(workers=1))
        return run_in(session, name, config, inputs).artifact

    return run


class PowerFailureError(Exception):
    """Simulates a power failure."""


class RecordedProgress:
    """Progress that keeps the label, the total and the increments of every task."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, float | None, list[float]]] = []

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        increments: list[float] = []
        self.tasks.append((description, total, increments))

        class Recorded(SilentBar):
            def advance(self, amount: float = 1) -> None:
                increments.append(amount)

        yield Recorded()


@pytest.fixture
def bars(session: Session) -> RecordedProgress:
    """The progress of everything that the session runs."""
    session.progress = RecordedProgress()
    return session.progress


@pytest.fixture
def interrupt(run_stage: Any, tokens: Artifact, store: Store, monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Start a run that fails after some steps; returns its id."""

    def run(config: dict[str, Any], after: int = 7, name: str | None = None) -> str:
        original = trainer.TrainingRun.step

        def step(self: Any, done: int) -> Any:
            if done == after:
                raise PowerFailureError
            return original(self, done)

        before = {run.id for run in unfinished_runs(store)}
        with monkeypatch.context() as patch:
            patch.setattr(trainer.TrainingRun, "step", step)
            with pytest.raises(PowerFailureError):
                run_stage("train", config, {"tokens": tokens}, name)
        (found,) = {run.id for run in unfinished_runs(store)} - before
        return found

    return run
