"""Configuration of tokenizer training."""

from __future__ import annotations

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.stages.data.tokenizer.special import SPECIAL_TOKENS

BYTE_ALPHABET = 256
# Special tokens, one token a byte, and one merge.
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + BYTE_ALPHABET + 1


class TokenizerConfig(StageConfig):
    """Byte-level BPE."""

    vocab_size: int = Field(
        default=32_768,
        ge=SMALLEST_VOCABULARY,
        le=1 << 20,
        description="Tokens in all, special ones and bytes included. LongCat-Flash has 131072.",
    )
    sample_bytes: int = Field(
        default=256 << 20,
        ge=1,
        description="Text to train on, in bytes: documents chosen by a hash of their id up to that.",
    )
    held_out_bytes: int = Field(
        default=1 << 20,
        ge=1,
        description="Text kept from training to measure bytes a token on; at most a twentieth of all.",
    )
    min_frequency: int = Field(default=2, ge=1, description="How often a pair must occur in the sample to be merged.")
    max_token_length: int = Field(default=64, ge=2, description="Greatest length of a token, in bytes.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the choice of documents.")
