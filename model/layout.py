"""Published names of tensors: one tensor a matrix on disk, where memory holds the experts of a layer as stacks."""

from collections.abc import Iterator

import torch

from model.transformer import LongcatFlash

GATE_UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"


def published_tensors(model: LongcatFlash) -> Iterator[tuple[str, torch.Tensor]]:
    """Every (published key, tensor) of a model; the tensors are views without gradient: writing sets the model."""
    for name, tensor in model.state_dict().items():
        if name.endswith(GATE_UP):
            prefix = name.removesuffix("gate_up_proj")
            for expert, gate_up_GD in enumerate(tensor.unbind()):
                gate_FD, up_FD = gate_up_GD.chunk(2)
                yield f"{prefix}{expert}.gate_proj.weight", gate_FD
                yield f"{prefix}{expert}.up_proj.weight", up_FD
        elif name.endswith(DOWN):
            prefix = name.removesuffix("down_proj")
            for expert, down_DF in enumerate(tensor.unbind()):
                yield f"{prefix}{expert}.down_proj.weight", down_DF
        else:
            yield name, tensor
