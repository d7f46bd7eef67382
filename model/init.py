"""Initial values: matrices from N(0, std^2), norms one, selection biases and gating residuals zero."""

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError
from longcat.model.layers.build import layer_class
from longcat.model.layout import published_tensors
from longcat.model.mixers import slot_of_key
from longcat.model.parameter_kinds import parameter_kind
from longcat.model.transformer import LongcatFlash

_LAYER_KEY = re.compile(r"model\.layers\.\d+\.(.+)")


@torch.no_grad()
def initialize(model: LongcatFlash, seed: int, std: Mapping[str, float] | None = None) -> None:
    """Fill `model` in place; `std` overrides the configuration's `initializer_range` by `model.parameter_kinds.Kind`.

    Every matrix has its own random stream, from `seed` and its published key. So its values do not depend on the
    device, the number of threads, the dtype (apart from rounding), the stacking of experts, or the other matrices of
    the model.

    Raises:
        ModelError: `seed` is negative.
    """
    check_seed(seed)
    for key, tensor in published_tensors(model):
        tensor.copy_(initial_value(model.config, seed, key, tensor.shape, std))


def check_seed(seed: int) -> None:
    """Raise ModelError for a negative seed."""
    if seed < 0:
        raise ModelError(f"seed = {seed} must not be negative")


def initial_value(
    config: ModelConfig, seed: int, key: str, shape: Sequence[int], std: Mapping[str, float] | None = None
) -> torch.Tensor:
    """Initial float32 value of the tensor with the published `key`."""
    if key.endswith(("e_score_correction_bias", ".router.residual.weight")):
        return torch.zeros(*shape)
    scale = (std or {}).get(parameter_kind(config, key, len(shape)), config.initializer_range)
    layer = _LAYER_KEY.fullmatch(key)
    if layer is not None:
        scale *= layer_class(config).initial_scale(config, layer[1])
    own = _of_mixer(config, seed, key, shape, scale)
    if own is not None:
        return own
    if len(shape) == 1:
        return torch.ones(*shape)
    values = _stream(seed, key).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(values).mul_(scale)


def _of_mixer(config: ModelConfig, seed: int, key: str, shape: Sequence[int], std: float) -> torch.Tensor | None:
    """Initial value that an attention kind defines for its own parameter, or None."""
    place = None if config.default_attention else slot_of_key(key, config.num_layers)
    if place is None:
        return None
    slot, name = place
    value: torch.Tensor | None = config.mixer(slot).mixer.initial_value(name, tuple(shape), std, _stream(seed, key))
    return value


def _stream(seed: int, key: str) -> np.random.Generator:
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")
    return np.random.Generator(np.random.PCG64([seed, number]))
