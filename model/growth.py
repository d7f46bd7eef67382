"""Growing a model in depth by stacking its layers (LongCat-Flash report, section 2.3.2: L_target = L_small o L_small).

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
    """The layer of the small model that each layer of the grown model comes from.

    Raises:
        ModelError: `factor` is below 1.
    """
    if factor < 1:
        raise ModelError(f"factor = {factor}: a model grows by a whole factor of at least 1")
    return [layer % num_layers for layer in range(num_layers * factor)]


def stack_layers(model: LongcatFlash, factor: int) -> LongcatFlash:
    """A model of `factor` times the layers, sharing no memory with `model`. Factor 1 gives an equal copy."""
    config = model.config
    state = stack_state(model.state_dict(), config.num_layers, factor)
    grown_config = ModelConfig(**(config.model_dump() | {"num_layers": config.num_layers * factor}))
    with torch.device("meta"):
        grown = LongcatFlash(grown_config)
    grown.load_state_dict(state, assign=True)
    return grown


def stack_state(tensors: dict[str, torch.Tensor], num_layers: int, factor: int) -> dict[str, torch.Tensor]:
    """Tensors by name, as the grown model has them; names begin with a parameter's name, with any ending.

    So the same renaming serves weights and optimizer moments. Every tensor of the result is a copy.

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
