"""Published tensor names: one tensor per matrix on disk, while experts are stacked per layer in memory.

Layouts: `published` is the layout of Meituan's checkpoints, vLLM, SGLang and transformers 4; `transformers5` has more,
see `idle_tensors`.
"""

from collections.abc import Iterator
from typing import Literal

import torch

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash

Layout = Literal["published", "transformers5"]

GATE_UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"


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
        else:
            yield name, tensor


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
