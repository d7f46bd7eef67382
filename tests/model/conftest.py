"""Fixtures of model tests: one thread, deterministic algorithms, and a small model with all parts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """With deterministic algorithms `torch.empty` is filled with NaN, so unwritten elements are visible."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Checkpoint written by transformers 4.57.1 in the published layout, with its outputs (tests/data)."""
    return Path(__file__).parents[1] / "data" / "golden"


@pytest.fixture
def config() -> ModelConfig:
    """All widths differ, so that mistaking one for another is an error."""
    return ModelConfig(
        vocab_size=97,
        hidden_size=32,
        num_layers=2,
        num_attention_heads=3,
        ffn_hidden_size=40,
        expert_ffn_hidden_size=12,
        n_routed_experts=5,
        zero_expert_num=3,
        moe_topk=3,
        q_lora_rank=20,
        kv_lora_rank=16,
        qk_nope_head_dim=10,
        qk_rope_head_dim=6,
        v_head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.2,
    )


@pytest.fixture
def build_model(config: ModelConfig) -> BuildModel:
    """Build an initialised model with non-trivial norms and selection biases."""

    def build(seed: int = 0, **changes: object) -> LongcatFlash:
        model = LongcatFlash(ModelConfig(**(config.model_dump() | changes)))
        initialize(model, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
            for bias in model.router_biases():
                ffn_experts = model.config.n_routed_experts
                bias[:ffn_experts] = 0.1 * torch.randn(ffn_experts, generator=generator)
        return model

    return build
