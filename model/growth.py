"""Depth growth of a model by stacking its layers (LongCat-Flash report, section 2.3.2: L_target = L_small o L_small).

Layers 0 ... n-1 of the small model become layers 0 ... n-1, then again n ... 2n-1, and so on. Embedding, final norm,
multi-token prediction and output projection are copied.
"""

import re

import torch

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError
from longcat.model.transformer import LongcatFlash

_LAYER_KEY = re.compile(r"model\.layers\.(\d+)\.(.+)")


def layer_mapping(num_layers: int, factor: int) -> list[int]:
    """Source layer in the small model for each layer of the grown model.

    Raises:
        ModelError: `factor` is below 1.
    """
    if factor < 1:
        raise ModelError(f"factor = {factor}: expected an integer of at least 1")
    return [layer % num_layers for layer in range(num_layers * factor)]


def stack_layers(model: LongcatFlash, factor: int) -> LongcatFlash:
    """Model with `factor` times the layers, sharing no memory with `model`. Factor 1 gives a copy."""
    config = model.config
    check_pattern(config)
    state = stack_state(model.state_dict(), config.num_layers, factor)
    grown_config = ModelConfig(**(config.model_dump() | {"num_layers": config.num_layers * factor}))
    with torch.device("meta"):
        grown = LongcatFlash(grown_config)
    grown.load_state_dict(state, assign=True)
    return grown


def check_pattern(config: ModelConfig) -> None:
    """Raise ModelError if a copy of a layer would be in a slot of another attention kind."""
    slots, length = 2 * config.num_layers, len(config.mixers) if config.attention is not None else 1
    if slots % length:
        raise ModelError(
            f"the pattern of attention has {length} places and does not end with the {slots} attention slots of "
            f"num_layers = {config.num_layers}, so stacked layers would change their kind; train with a pattern whose "
            f"length divides {slots}"
        )


def stack_state(tensors: dict[str, torch.Tensor], num_layers: int, factor: int) -> dict[str, torch.Tensor]:
    """Tensors of the grown model by name; names start with a parameter's name, with any suffix.

    The same renaming applies to weights and optimizer moments. Every returned tensor is a copy.

    Raises:
        ModelError: `factor` is below 1, or a name belongs to a layer that a model of `num_layers` does not have.
    """
    targets: dict[int, list[int]] = {}
    for target, source in enumerate(layer_mapping(num_layers, factor)):
        targets.setdefault(source, []).append(target)
    stacked = {}
    for name, tensor in tensors.items():
        match = _LAYER_KEY.fullmatch(name)
        if match is None:
            stacked[name] = tensor.clone()
            continue
        layer = int(match[1])
        if layer not in targets:
            raise ModelError(f"{name}: a model of {num_layers} layers has no layer {layer}")
        for target in targets[layer]:
            stacked[f"model.layers.{target}.{match[2]}"] = tensor.clone()
    return stacked
