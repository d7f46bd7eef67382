"""Configuration of tokenizer training."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.stages.formats.special_tokens import SPECIAL_TOKENS

BYTE_ALPHABET = 256
# Special tokens, one token per byte, and one merge.
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + BYTE_ALPHABET + 1


class TokenizerConfig(StageConfig):
    """Byte-level BPE."""

    vocab_size: int = Field(
        default=32_768,
        ge=SMALLEST_VOCABULARY,
        le=1 << 20,
        description="Vocabulary size, including special and byte tokens. LongCat-Flash has 131072.",
    )
    sample_bytes: int = Field(
        default=256 << 20,
        ge=1,
        description="Training text in bytes; documents are selected by a hash of their id.",
    )
    held_out_bytes: int = Field(
        default=1 << 20,
        ge=1,
        description="Held-out text in bytes to measure bytes per token; at most 5 % of all.",
    )
    min_frequency: int = Field(default=2, ge=1, description="Minimum occurrences of a pair to be merged.")
    max_token_length: int = Field(default=64, ge=2, description="Maximum length of a token, in bytes.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the document selection.")
