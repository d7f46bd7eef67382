"""Published tensor names: one tensor per matrix on disk, while experts are stacked per layer in memory.

Layouts: `published` is the layout of Meituan's checkpoints, vLLM, SGLang and transformers 4; `transformers5` has more,
see `idle_tensors`. N-gram tables are stacked in memory, and their projections side by side.
"""

from collections.abc import Iterator
from typing import Literal

import torch

from longcat.model.config import ModelConfig
from longcat.model.published_keys import NGRAM_PREFIX
from longcat.model.transformer import LongcatFlash

Layout = Literal["published", "transformers5"]

GATE_UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"
NGRAM_TABLES, NGRAM_PROJECTION = "model.embed_tokens.tables", "model.embed_tokens.projection.weight"


def published_tensors(model: LongcatFlash) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every (published key, tensor) of a model; tensors are views without gradient: writes change the model."""
    for name, tensor in model.state_dict().items():
        if name.endswith(GATE_UP):
            prefix = name.removesuffix("gate_up_proj")
            for expert, gate_up_GD in enumerate(tensor.unbind()):
                gate_FD, up_FD = gate_up_GD.chunk(2)
                yield f"{prefix}{expert}.gate_proj.weight", gate_FD
                yield f"{prefix}{expert}.up_proj.weight", up_FD
        elif name.endswith(DOWN):
            prefix = name.removesuffix("down_proj")
            for expert, down_DF in enumerate(tensor.unbind()):
                yield f"{prefix}{expert}.down_proj.weight", down_DF
        elif name in (NGRAM_TABLES, NGRAM_PROJECTION):
            parts, dim = ngram_parts(model.config, name)
            for key, start, size in parts:
                yield key, tensor.narrow(dim, start, size)
        else:
            yield name, tensor


def ngram_parts(config: ModelConfig, name: str) -> tuple[list[tuple[str, int, int]], int]:
    """(published key, first index, size) of every part of the stacked tables or the projection, and their dimension."""
    tables = config.ngram_tables
    if tables is None:
        raise ValueError("the model has no n-gram embeddings")
    if name == NGRAM_TABLES:
        places, kind, dimension = list(zip(tables.starts, tables.sizes, strict=True)), "embedders", 0
    else:
        places = [(table * tables.width, tables.width) for table in range(tables.count)]
        kind, dimension = "post_projs", 1
    return [(f"{NGRAM_PREFIX}{kind}.{table}.weight", *place) for table, place in enumerate(places)], dimension


def idle_tensors(config: ModelConfig, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """(key, zeros) of the additional tensors of the layout `transformers5`; all share memory.

    transformers 5 stacks the gates of all experts, including those without a network, and expects rows for them that it
    never reads (down projections only for those with one).
    """
    if not config.zero_expert_num:
        return
    zeros_FD = torch.zeros(config.expert_ffn_hidden_size, config.hidden_size, dtype=dtype)
    for layer in range(config.num_layers):
        for expert in range(config.n_routed_experts, config.num_experts):
            for name in ("gate_proj", "up_proj"):
                yield f"model.layers.{layer}.mlp.experts.{expert}.{name}.weight", zeros_FD


def is_router_key(key: str) -> bool:
    """Whether a published key belongs to a router, which stays at least float32 in a half-precision checkpoint."""
    return ".router." in key


def is_router_bias(key: str) -> bool:
    """Whether a published key is the selection bias of a router."""
    return key.endswith(".router.e_score_correction_bias")
