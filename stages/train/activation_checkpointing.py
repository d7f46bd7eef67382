"""Activation checkpointing: what backward computes again instead of keeping it, applied from outside the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch.utils.checkpoint import checkpoint

from longcat.model.ffn import FeedForward
from longcat.model.moe import Experts
from longcat.model.transformer import LongcatFlash

ActivationCheckpointing = Literal["none", "selective", "block"]


def checkpoint_activations(model: LongcatFlash, what: ActivationCheckpointing) -> None:
    """Change `model` so that it keeps fewer activations; the numbers stay the same.

    `selective`: the feed-forward networks, dense and of the experts, whose inner activations are the widest, are
    computed again; attention is not. `block`: whole layers are, so that only their inputs are kept.
    """
    if what == "block":
        for layer in model.model.layers:
            layer.forward = _again(layer.forward)
    if what == "selective":
        for module in model.modules():
            if isinstance(module, FeedForward):
                module.forward = _again(module.forward)  # type: ignore[method-assign]
            elif isinstance(module, Experts):
                module.compute = _again(module.compute)  # type: ignore[method-assign]


def _again(function: Callable[..., Any]) -> Callable[..., Any]:
    return partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
