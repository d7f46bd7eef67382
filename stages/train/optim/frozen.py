"""Training of a part of the model alone, such as new indexers of sparse attention in their warm-up.

The other parameters get no gradient, so that the optimizer leaves them and their moments as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from longcat.model.attention.base import SequenceMixer
from longcat.model.config import ModelConfig


def trained_part(config: ModelConfig) -> str | None:
    """Part of attention modules that alone is trained (`SequenceMixer.trains_only`); None: everything is."""
    if config.default_attention:
        return None
    return next((part for spec in config.mixers if (part := spec.mixer.trains_only(spec.options))), None)


def freeze_all_but(part: str, models: Iterable[nn.Module]) -> None:
    """Parameters outside the attention modules' part of this name need no gradient."""
    for model in models:
        model.requires_grad_(False)
        for mixer in model.modules():
            if isinstance(mixer, SequenceMixer) and hasattr(mixer, part):
                mixer.get_submodule(part).requires_grad_(True)
