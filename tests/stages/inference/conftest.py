"""A small tokenizer with every published special token."""

from __future__ import annotations

from pathlib import Path

import pytest

from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.inference.tokenizer import EngineTokenizer

TEXTS = (
    '{"name": "Zürich", "values": [1, 2, 3], "nested": {"a": true, "b": null}}\n',
    "The quick brown fox jumps over the lazy dog. 日本語のテキスト。 🙂🙃",
    '"}, {"", ": "], [[ }}\n',
)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train(TEXTS * 4, TokenizerConfig(vocab_size=400)), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> EngineTokenizer:
    return EngineTokenizer.load(tokenizer_folder)
