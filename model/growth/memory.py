"""Growth of a model, and of tensors named after its parameters, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from longcat.model.growth.depth import DepthScale
from longcat.model.growth.layers import Growth, Moments
from longcat.model.transformer import LongcatFlash


def grow_model(model: LongcatFlash, growth: Growth, *, rescale_depth: bool = False) -> LongcatFlash:
    """The grown model, sharing no memory with `model`; raises as `Growth.config`.

    `rescale_depth`: multiply matrices whose initial values depend on the depth (`DepthScale`).
    """
    config = growth.config(model.config)
    with torch.device("meta"):
        grown = LongcatFlash(config)
    depth = DepthScale(model.config, config) if rescale_depth else None
    grown.load_state_dict(grow_tensors(model.state_dict(), growth, depth=depth), assign=True)
    return grown


def grow_tensors(
    tensors: Mapping[str, torch.Tensor],
    growth: Growth,
    moments: Moments = "copy",
    depth: DepthScale | None = None,
) -> dict[str, torch.Tensor]:
    """Tensors of the grown model by name, all copies; optimizer moments may be rescaled (`Growth.divisor`).

    `depth`: rescale what depends on the depth, parameters and moments.

    Raises:
        ModelError: a name belongs to a layer that the small model does not have.
    """
    grown = {}
    for name, source in growth.names(tensors).items():
        divisor = growth.divisor(source, moments) * (depth.divisor(source) if depth else 1)
        grown[name] = tensors[source].clone() if divisor == 1 else tensors[source] / divisor
    return grown
