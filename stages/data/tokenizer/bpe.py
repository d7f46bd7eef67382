"""Byte-level BPE: training of merges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.formats.special_tokens import SPECIAL_TOKENS, UNKNOWN
from longcat.stages.formats.split_pattern import SPLIT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Training is quadratic in the length of unsplit text: a run of a million letters would take days.
_LONG_RUN = re.compile(r"\S{1000}|\s{1000}")


def untrained() -> Tokenizer:
    """Lossless tokenizer without vocabulary: no normalisation, prefix or dropped bytes."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train merges; the vocabulary is smaller than requested if the texts yield too few.

    Independent of text order and number of threads: pairs of equal count are ordered by id.
    """
    from tokenizers import pre_tokenizers, trainers

    tokenizer = untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        max_token_length=config.max_token_length,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain.from_iterable(map(bounded_runs, texts)), trainer)
    return tokenizer


def bounded_runs(text: str) -> Iterator[str]:
    """Text, split wherever a run of whitespace or non-whitespace exceeds 1000 characters."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]
