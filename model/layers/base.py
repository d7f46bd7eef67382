"""Interface of layers, and the layer loop shared by whole models and pipeline stages.

Names: B batch, T tokens, D hidden, E experts of both kinds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from longcat.model.attention.base import MixerOutput, SequenceContext
from longcat.model.attention.pages import StepState
from longcat.model.config import ModelConfig
from longcat.model.moe.mixture import LayerRouting

States = Sequence[StepState | None]
NO_STATES: States = (None, None)


class LayerOutput(NamedTuple):
    """hidden_BTD: residual stream after the layer. routing: its routing. losses: auxiliary losses by name."""

    hidden_BTD: torch.Tensor
    routing: LayerRouting
    losses: Mapping[str, torch.Tensor]


class Layer(nn.Module, ABC):
    """Layer with two attention modules, in `self_attn`. It determines its norm placement."""

    # Whether the backbone has a norm after the last layer.
    final_norm: ClassVar[bool] = True

    @abstractmethod
    def __init__(self, config: ModelConfig, index: int) -> None:
        """Build layer `index`, with parameters set to NaN."""
        super().__init__()

    @abstractmethod
    def forward(
        self,
        h_BTD: torch.Tensor,
        where: SequenceContext,
        previous_TE: torch.Tensor | None = None,
        states: States = NO_STATES,
    ) -> LayerOutput:
        """`previous_TE`: router logits of the previous layer; `states`: mixer states, if any."""

    @classmethod
    def initial_scale(cls, config: ModelConfig, name: str) -> float:
        """Factor on the initial standard deviation of the matrix `name` of the layer."""
        return 1.0


def joined_losses(*outputs: MixerOutput) -> Mapping[str, torch.Tensor]:
    """Auxiliary losses of several mixers, summed by name."""
    joined: dict[str, torch.Tensor] = {}
    for output in outputs:
        for name, loss in output.losses.items():
            joined[name] = joined[name] + loss if name in joined else loss
    return joined


def run_layers(
    layers: Iterable[nn.Module],
    h_BTD: torch.Tensor,
    where: SequenceContext,
    *,
    previous_TE: torch.Tensor | None = None,
    states: States | None = None,
    after: Callable[[int, LayerOutput], torch.Tensor] | None = None,
) -> list[LayerOutput]:
    """Run the layers in order and yield the output of each.

    `previous_TE`: router logits of the layer before the first; `states`: two per layer. `after` is called with the
    index and output of each layer, and returns the hidden states for the next one.
    """
    outputs: list[LayerOutput] = []
    for place, layer in enumerate(layers):
        of_layer = NO_STATES if states is None else states[2 * place : 2 * place + 2]
        output: LayerOutput = layer(h_BTD, where.of_layer(place), previous_TE, of_layer)
        if after is not None:
            output = output._replace(hidden_BTD=after(place, output))
        outputs.append(output)
        h_BTD, previous_TE = output.hidden_BTD, output.routing.logits_TE
    return outputs
