"""The byte-level BPE itself: how text is split before merging, and how merges are learnt.

LongCat-Flash's report (arXiv 2509.01322, section 2.4) asks for GPT-4's pre-tokenisation with CJK text segmented apart
and every digit a token of its own; its expression is not published, this is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.special import SPECIAL_TOKENS, UNKNOWN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPLIT = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"\p{Han}+",
        r"[\p{Hiragana}\p{Katakana}ー]+",
        r"[^\r\n\p{L}\p{M}\p{N}]?(?:(?![\p{Han}\p{Hiragana}\p{Katakana}])[\p{L}\p{M}])+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


# Learning takes the square of the length of what is not split: a run of a million letters would take days.
_LONG_RUN = re.compile(r"\S{1000}|\s{1000}")


def untrained() -> Tokenizer:
    """A tokenizer without vocabulary that loses no byte: nothing is normalised, prefixed or dropped."""
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
    """Learn merges; the vocabulary is smaller than asked for where the texts give too few.

    Depends neither on the order of the texts nor on the number of threads: pairs of equal count are taken by id.
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
    """The text, cut wherever a run of blanks or of anything else has gone on for 1000 characters."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        yield text[start : run.end()]
        start = run.end()
    yield text[start:]
