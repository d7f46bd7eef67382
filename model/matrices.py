"""The matrices that a parameter consists of, for optimizers that treat every matrix as a whole.

A parameter may hold several: the stacks of experts, of which `gate_up_proj` holds two per expert, and, if asked
for, the projections from latents to attention heads, one per head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longcat.model.config import ModelConfig
from longcat.model.layout import DOWN, GATE_UP
from longcat.model.mixers import slot_of_key
from longcat.model.parameter_kinds import parameter_kind

STACKED = 3  # dimensions of a stack of experts
# Values of matrices that an optimizer takes together, unless a single parameter has more.
TOGETHER = 1 << 22


@dataclass(frozen=True)
class Matrices:
    """Division of tensors [..., M, N] by their second last dimension.

    `rows` are the numbers of rows of consecutive matrices; the sequence repeats until M, a multiple of their sum.
    """

    rows: tuple[int, ...]

    def of(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Views [..., M / sum(rows), rows[i], N] of a tensor [..., M, N], one for each of `rows`."""
        return x.unflatten(-2, (-1, sum(self.rows))).split(self.rows, dim=-2)


def matrices_of(config: ModelConfig, name: str, shape: Sequence[int], *, per_head: bool = False) -> Matrices | None:
    """Matrices of the parameter `name` with this shape; None unless it is a hidden matrix, or a stack of them.

    `per_head` divides the projections that are made of heads (`SequenceMixer.head_rows`).
    """
    if parameter_kind(config, name, len(shape)) != "hidden":
        return None
    if len(shape) == STACKED and name.endswith((GATE_UP, DOWN)):
        return Matrices((shape[1] // 2,) if name.endswith(GATE_UP) else (shape[1],))
    if len(shape) != STACKED - 1:
        return None
    heads = _head_rows(config, name) if per_head else None
    return Matrices(heads or (shape[0],))


def _head_rows(config: ModelConfig, name: str) -> tuple[int, ...] | None:
    place = slot_of_key(name, config.num_layers)
    if place is None:
        return None
    slot, own_name = place
    found: tuple[int, ...] | None = config.mixer(slot).mixer.head_rows(config, own_name)
    return found
