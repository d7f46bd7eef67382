"""The byte-level BPE itself: how text is split before merging, and how merges are learnt.

LongCat-Flash's report (arXiv 2509.01322, section 2.4) asks for GPT-4's pre-tokenisation with CJK text segmented apart
and every digit a token of its own; its expression is not published, this is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from stages.data.tokenizer.config import TokenizerConfig
from stages.data.tokenizer.special import SPECIAL_TOKENS, UNKNOWN

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
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
