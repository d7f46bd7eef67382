"""Initial values: matrices from N(0, std^2), norms one, selection biases and gating residuals zero."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError
from longcat.model.layout import published_tensors
from longcat.model.parameter_kinds import parameter_kind
from longcat.model.transformer import LongcatFlash


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
    check_seed(seed)
    for key, tensor in published_tensors(model):
        tensor.copy_(initial_value(model.config, seed, key, tensor.shape, std))


def check_seed(seed: int) -> None:
    """Raises ModelError for a negative seed."""
    if seed < 0:
        raise ModelError(f"seed = {seed} must not be negative")


def initial_value(
    config: ModelConfig, seed: int, key: str, shape: Sequence[int], std: Mapping[str, float] | None = None
) -> torch.Tensor:
    """The float32 value that `initialize` gives to the tensor of the published `key`."""
    if key.endswith(("e_score_correction_bias", ".router.residual.weight")):
        return torch.zeros(*shape)
    if len(shape) == 1:
        return torch.ones(*shape)
    scale = (std or {}).get(parameter_kind(key, len(shape)), config.initializer_range)
    return _normal(seed, key, shape).mul_(scale)


def _normal(seed: int, key: str, shape: Sequence[int]) -> torch.Tensor:
    stream = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    generator = np.random.Generator(np.random.PCG64([seed, stream]))
    return torch.from_numpy(generator.standard_normal(tuple(shape), dtype=np.float32))
