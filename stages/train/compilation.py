"""torch.compile of the blocks of a model, applied from outside."""

from __future__ import annotations

from typing import cast

import torch

from longcat.model.layer import Layer
from longcat.model.transformer import LongcatFlash


def compile_blocks(model: LongcatFlash) -> None:
    """Compile every attention module and dense network in place; the first step takes seconds to a minute longer.

    What has kernels of its own that beat what a compiler makes, attention itself and the experts, stays outside of the
    compiled graphs; norms, projections, rotations and activations are fused.
    """
    for module in model.model.layers:
        layer = cast(Layer, module)
        for attention in layer.self_attn:
            attention._attend_expanded = torch.compiler.disable(attention._attend_expanded)
            attention.compile()
        for network in layer.mlps:
            network.compile()
