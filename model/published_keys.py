"""Published names of tensors that other programs read, and a model of ours does not have under this name or at all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from longcat.model.config import ModelConfig

EMBEDDING, HEAD, MTP_EMBEDDING = "model.embed_tokens.weight", "lm_head.weight", "model.mtp.embed_tokens.weight"
# Rotary frequencies, which older files hold and every program computes from the configuration.
DERIVED = "rotary_emb.inv_freq"
NGRAM_PREFIX = "model.ngram_embeddings."
# Files with indexers spell n-gram tables so; parts of both spellings, in order.
_OTHER_TABLES = re.compile(r"model\.oe_embed_(tokens|proj)(\d{1,4})\.(.+)")
_TABLES = re.compile(r"model\.ngram_embeddings\.(embedders|post_projs)\.(\d{1,4})\.(.+)")
_KINDS = {"tokens": "embedders", "proj": "post_projs"}
# Tables of their own in multi-token prediction, of which engines know nothing and the names are not documented.
_MTP_TABLES = re.compile(
    r"model\.mtp\..*(?:oe_embed_(?:tokens|proj)|ngram_embeddings\.(?:embedders|post_projs)\.)(\d{1,4})\.weight"
)


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


def indexer_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(published key, shape) of the tensors of sparse attention's indexers, which are kept and not run."""
    sparse = config.sparse_index
    if sparse is None or config.q_lora_rank is None:
        return
    places = [f"model.layers.{slot // 2}.self_attn.{slot % 2}" for slot in sparse.owners(2 * config.num_layers)]
    places += ["model.mtp.layers.0.self_attn"] * config.num_nextn_predict_layers
    for place in places:
        for name, shape in sparse.shapes(config.hidden_size, config.q_lora_rank):
            yield f"{place}.indexer.{name}", shape


def canonical(key: str) -> str:
    """A stored key in the spelling of Flash-Lite, which has n-gram tables and no indexers."""
    found = _OTHER_TABLES.fullmatch(key)
    return key if found is None else f"{NGRAM_PREFIX}{_KINDS[found[1]]}.{found[2]}.{found[3]}"


def spelled(key: str, config: ModelConfig) -> str:
    """A key in the spelling of the published files of such a model; the opposite of `canonical`."""
    found = None if config.sparse_index is None else _TABLES.fullmatch(key)
    if found is None:
        return key
    kind = next(other for other, kind in _KINDS.items() if kind == found[1])
    return f"model.oe_embed_{kind}{found[2]}.{found[3]}"


def mtp_table_shapes(config: ModelConfig, keys: Iterable[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(key, shape) of those of `keys` that are n-gram tables of multi-token prediction, which are kept and not run."""
    tables = config.ngram_tables
    if tables is None or config.sparse_index is None:
        return
    for key in keys:
        found = _MTP_TABLES.fullmatch(key)
        if found is not None and int(found[1]) < tables.count:
            projection = "proj" in key.removeprefix("model.mtp.")
            rows = tables.sizes[int(found[1])]
            yield key, (config.hidden_size, tables.width) if projection else (rows, tables.width)
