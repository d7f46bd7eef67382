"""A tiny model with the parts used by the stability measurements, without a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]


@pytest.fixture
def build_model() -> BuildModel:
    """Three layers of 6 FFN and 3 zero-computation experts, by default in float32."""

    def build(dtype: torch.dtype = torch.float32, **changes: object) -> LongcatFlash:
        sizes = {
            "vocab_size": 61,
            "hidden_size": 24,
            "num_layers": 3,
            "num_attention_heads": 2,
            "ffn_hidden_size": 32,
            "expert_ffn_hidden_size": 8,
            "n_routed_experts": 6,
            "zero_expert_num": 3,
            "moe_topk": 3,
            "q_lora_rank": 12,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "initializer_range": 0.2,
        }
        model = LongcatFlash(ModelConfig(**(sizes | changes)))
        initialize(model, 0)
        return model.to(dtype)

    return build


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of 13 tokens plus one target."""
    return torch.randint(0, 61, (2, 14), generator=torch.Generator().manual_seed(0))
