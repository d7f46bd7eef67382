"""Growth of a model, and of tensors named after its parameters, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from longcat.model.growth.layers import Growth, Moments
from longcat.model.transformer import LongcatFlash


def grow_model(model: LongcatFlash, growth: Growth) -> LongcatFlash:
    """The grown model, sharing no memory with `model`; raises as `Growth.config`."""
    config = growth.config(model.config)
    with torch.device("meta"):
        grown = LongcatFlash(config)
    grown.load_state_dict(grow_tensors(model.state_dict(), growth), assign=True)
    return grown


def grow_tensors(
    tensors: Mapping[str, torch.Tensor], growth: Growth, moments: Moments = "copy"
) -> dict[str, torch.Tensor]:
    """Tensors of the grown model by name, all copies; optimizer moments may be rescaled (`Growth.divisor`).

    Raises:
        ModelError: a name belongs to a layer that the small model does not have.
    """
    grown = {}
    for name, source in growth.names(tensors).items():
        divisor = growth.divisor(source, moments)
        grown[name] = tensors[source].clone() if divisor == 1 else tensors[source] / divisor
    return grown
