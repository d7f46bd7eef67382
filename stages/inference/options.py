"""Options of the inference engine: memory of the cache, size of a step, drafts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from longcat.model.attention.offload.options import OffloadOptions
from longcat.pipeline.config import StageConfig

Drafts = Literal["auto", "off", "mtp", "ngram"]
Weights = Literal["auto", "plain", "fp32", "fp16", "bf16", "int8", "int4"]


class EngineOptions(StageConfig):
    """How the engine runs. `weights` may round the model; `deterministic` may change the last bits of logits; `offload`
    changes texts that are longer than the blocks it keeps; no other field changes a text.
    """

    cache_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens that the cache holds, of all sequences and the prefix cache; default: one context or "
        "65,536, whichever is more, but at most a quarter of the free memory",
    )
    page_size: int = Field(default=16, ge=1, le=1024, description="tokens per page; prefixes are shared by page")
    step_tokens: int = Field(default=256, ge=2, description="maximum number of tokens in a step")
    max_sequences: int = Field(default=32, ge=1, description="maximum number of sequences that are computed at once")
    prefix_cache: bool = Field(default=True, description="keep finished sequences for prompts that begin alike")
    drafts: Drafts = Field(
        default="auto",
        description="source of draft tokens: mtp (the model's own layer), ngram (repeated text), off; auto: mtp if any",
    )
    draft_tokens: int = Field(default=1, ge=1, le=16, description="maximum number of drafts per sequence and step")
    weights: Weights = Field(
        default="auto",
        description="form of the weights on a CPU; auto: the stored one, else float32 packed as is fastest here",
    )
    ngram_tables: Literal["memory", "disk"] = Field(
        default="memory",
        description="where n-gram tables are: in memory, or on disk, so that only the rows read come into memory",
    )
    offload: OffloadOptions | None = Field(
        default=None, description="keep the cache of latent attention in a slow tier, and a few blocks in a fast one"
    )
    deterministic: bool = Field(
        default=False,
        description="the same bits for a text alone, in a batch, from the prefix cache and with drafts; slower",
    )
