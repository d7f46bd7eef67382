"""A tokens artifact of real text with a real tokenizer, and two untrained checkpoints of different context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.tokens import TokenFile, TokenWriter
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.evaluate.needle import read_haystack
from longcat.stages.inference.tokenizer import EngineTokenizer

VALIDATION = tuple(
    f"Section {number}. Installing größere packages is easy – see 日本語 notes. Run pip, then read on: {number * 7}.\n"
    for number in range(40)
)
TRAINING = tuple(f"Chapter {number}: how to write and read files, quickly and safely.\n" for number in range(60))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_tokens(publish_artifact: Any) -> Any:
    """Publish the texts under a tokenizer of `vocab_size` tokens."""

    def make(identifier: str, vocab_size: int) -> Artifact:
        def fill(output: Path) -> None:
            write_tokenizer(train((*TRAINING, *VALIDATION) * 2, TokenizerConfig(vocab_size=vocab_size)), output)
            tokenizer = EngineTokenizer.load(output)
            for split, texts in (("train", TRAINING), ("validation", VALIDATION)):
                with TokenWriter(output / split, tokenizer.vocab_size) as writer:
                    for text in texts:
                        writer.add_document([*tokenizer.encode(text), tokenizer.eos_id])

        made: Artifact = publish_artifact(identifier, "tokens", "data.pack", fill)
        return made

    return make


@pytest.fixture
def tokens(make_tokens: Any) -> Artifact:
    made: Artifact = make_tokens("70ce500000000002", 340)
    return made


@pytest.fixture
def validation_texts() -> tuple[str, ...]:
    return VALIDATION


@pytest.fixture
def make_checkpoint(run_stage: Any, tokens: Artifact) -> Any:
    """An almost untrained checkpoint."""

    def make(*, context: int, seed: int = 0) -> Artifact:
        config = {
            "preset": "smoke",
            "model": {"max_position_embeddings": context},
            "steps": 1,
            "sequence_length": 16,
            "batch_size": 1,
            "seed": seed,
            "device": "cpu",
            "threads": 1,
        }
        made: Artifact = run_stage("train", config, {"tokens": tokens})
        return made

    return make


@pytest.fixture
def short(make_checkpoint: Any) -> Artifact:
    return make_checkpoint(context=96)  # type: ignore[no-any-return]


@pytest.fixture
def long(make_checkpoint: Any) -> Artifact:
    return make_checkpoint(context=192, seed=1)  # type: ignore[no-any-return]


@pytest.fixture
def tokenizer(tokens: Artifact) -> EngineTokenizer:
    return EngineTokenizer.load(tokens.path)


@pytest.fixture
def haystack(tokens: Artifact, tokenizer: EngineTokenizer) -> Any:
    return read_haystack(TokenFile(tokens.path / "validation"), tokenizer)
