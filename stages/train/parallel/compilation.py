"""torch.compile of the blocks of a model, applied from outside."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch

from longcat.model.attention.base import SequenceMixer
from longcat.model.layers.pre_norm import PreNormLayer
from longcat.model.transformer import LongcatFlash


def compile_blocks(model: LongcatFlash) -> None:
    """Compile every attention module and dense network in place; the first step takes up to a minute longer.

    Attention and experts, which have faster kernels, are excluded from the compiled graphs; norms, projections,
    rotations and activations are fused.
    """
    for module in model.model.layers:
        layer = cast(PreNormLayer, module)
        for mixer in cast(Iterable[SequenceMixer], layer.self_attn):
            for name in mixer.opaque:
                setattr(mixer, name, torch.compiler.disable(getattr(mixer, name)))
            mixer.compile()
        for network in layer.mlps:
            network.compile()
