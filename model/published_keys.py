"""Published names of tensors that other programs read and a model of ours does not have under this name."""

from __future__ import annotations

from longcat.model.config import ModelConfig

EMBEDDING, HEAD, MTP_EMBEDDING = "model.embed_tokens.weight", "lm_head.weight", "model.mtp.embed_tokens.weight"
# Rotary frequencies, which older files hold and every program computes from the configuration.
DERIVED = "rotary_emb.inv_freq"


def copies(config: ModelConfig) -> dict[str, str]:
    """Tensors that a checkpoint holds once more, with the tensor that they equal, for parts which share a table.

    vLLM, SGLang and mlx-lm do not tie the output projection of this architecture, and vLLM has an own table for
    multi-token prediction, whatever config.json says.
    """
    found = {}
    if config.tie_word_embeddings:
        found[HEAD] = EMBEDDING
    if config.mtp_share_embeddings:
        found[MTP_EMBEDDING] = EMBEDDING
    return found


def is_derived(key: str) -> bool:
    """Whether a stored tensor follows from the configuration and is not read."""
    return key.endswith(DERIVED)
