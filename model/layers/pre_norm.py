"""Modules of a layer with a norm before every attention module and every feed-forward part."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from longcat.model.attention.build import build_attention
from longcat.model.config import ModelConfig
from longcat.model.ffn import FeedForward
from longcat.model.layers.base import Layer
from longcat.model.moe.mixture import MixtureOfExperts
from longcat.model.norm import RMSNorm


class PreNormLayer(Layer):
    """Two attention modules, `dense_networks` dense networks and a mixture of experts; subclasses connect them."""

    dense_networks: ClassVar[int]

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__(config, index)
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = nn.ModuleList(build_attention(config, 2 * index + i) for i in range(2))
        self.mlps = nn.ModuleList(FeedForward(width, config.ffn_hidden_size) for _ in range(self.dense_networks))
        self.mlp = MixtureOfExperts(config)
        self.input_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in range(2))
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in range(2))
