"""Activation checkpointing: recomputation in backward instead of storing, applied from outside the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch.utils.checkpoint import checkpoint

from longcat.model.ffn import FeedForward
from longcat.model.moe.mixture import Experts
from longcat.model.transformer import LongcatFlash

ActivationCheckpointing = Literal["none", "selective", "block"]


def checkpoint_activations(model: LongcatFlash, what: ActivationCheckpointing) -> None:
    """Modify `model` to store fewer activations; results are unchanged.

    `selective`: the feed-forward networks, dense and of the experts, which have the widest activations, are recomputed;
    attention is not. `block`: whole layers are recomputed, so that only their inputs are stored.
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
