"""Initial values: matrices from N(0, std^2), norms one, selection biases and gating residuals zero."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from model.errors import ModelError
from model.layout import published_tensors
from model.parameter_kinds import parameter_kind
from model.transformer import LongcatFlash


@torch.no_grad()
def initialize(model: LongcatFlash, seed: int, std: Mapping[str, float] | None = None) -> None:
    """Fill `model` in place; `std` gives the standard deviation by `model.parameter_kinds.Kind`, where it is not the
    configuration's `initializer_range`.

    Every matrix has a random stream of its own, from `seed` and its published key. So its values depend neither on the
    device, the number of threads and the dtype (apart from rounding), nor on how experts are stacked, nor on which
    other matrices a model has.

    Raises:
        ModelError: `seed` is negative.
    """
    if seed < 0:
        raise ModelError(f"seed = {seed} must not be negative")
    for key, tensor in published_tensors(model):
        if key.endswith(("e_score_correction_bias", ".router.residual.weight")):
            tensor.zero_()
        elif tensor.dim() == 1:
            tensor.fill_(1.0)
        else:
            scale = (std or {}).get(parameter_kind(key, tensor.dim()), model.config.initializer_range)
            tensor.copy_(_normal(seed, key, tensor.shape).mul_(scale))


def _normal(seed: int, key: str, shape: torch.Size) -> torch.Tensor:
    stream = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    generator = np.random.Generator(np.random.PCG64([seed, stream]))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
