"""FFN experts of a tile: products of EXPERT_ROWS rows of one expert.

Names: T rows of the tile, Y tokens among them, K slots per token, N experts with a network, R rows of experts, D
hidden, F expert width, G = 2F.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn

from longcat.kernels.packed_linear import PackedMatrix, pack
from longcat.kernels.router import Routing
from longcat.model.moe.mixture import Experts
from longcat.model.packed.experts import Order, PackedExperts

# A product of four rows takes 1.15 times as long as one of a single row, if oneDNN's blocks are used (640 x 512, one
# thread of an AMD EPYC); few experts get more rows from eight tokens.
EXPERT_ROWS = 4
# torch divides longer elementwise loops between threads, and the end of each part is computed with other instructions.
LOOP = 1 << 15


class Tile:
    """What the modules of a tile share. tokens: number of rows that are tokens, the first ones."""

    tokens: int = 0


class TileExperts(PackedExperts):
    """The experts of the tokens; other rows get no more than the part of identity experts."""

    def __init__(
        self, gate_up: Sequence[PackedMatrix], down: Sequence[PackedMatrix], identity: int | None, tile: Tile
    ) -> None:
        super().__init__(gate_up, down, identity)
        self._tile = tile

    def order(self, routing: Routing) -> Order:
        rows = _rows(routing.experts_TK[: self._tile.tokens].tolist(), len(self.down))
        return _order(rows, *routing.experts_TK.shape)

    def activate(self, hidden_RG: torch.Tensor) -> torch.Tensor:
        width = hidden_RG.shape[1] // 2
        parts = [super(TileExperts, self).activate(part) for part in hidden_RG.split(max(1, LOOP // width))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def tile_experts(experts: nn.Module, tile: Tile) -> TileExperts:
    """`experts`, packed or not, for tiles, on the same memory."""
    if isinstance(experts, PackedExperts):
        return TileExperts(experts.gate_up, experts.down, experts.identity, tile)
    assert isinstance(experts, Experts)  # noqa: S101  the caller checks
    gate_up, down = (
        [pack(weight, "plain") for weight in weights.detach().unbind()]
        for weights in (experts.gate_up_proj, experts.down_proj)
    )
    return TileExperts(gate_up, down, None, tile)


class _Row(NamedTuple):
    expert: int
    slot: int


def _rows(experts_YK: list[list[int]], count: int) -> list[_Row]:
    """A row for every slot with a network, in the order of experts."""
    slots = enumerate(expert for experts_K in experts_YK for expert in experts_K)
    return sorted(_Row(expert, slot) for slot, expert in slots if expert < count)


def _order(rows: Sequence[_Row], tokens: int, topk: int) -> Order:
    """Rows of every expert in parts of EXPERT_ROWS, the last one filled up with its first row."""
    experts: list[int] = []
    token_R: list[int] = []
    place_of_slot: dict[int, int] = {}
    for expert, found in groupby(rows, key=lambda row: row.expert):
        own = [row.slot for row in found]
        for first in range(0, len(own), EXPERT_ROWS):
            part = own[first : first + EXPERT_ROWS]
            experts.append(expert)
            place_of_slot |= {slot: len(token_R) + place for place, slot in enumerate(part)}
            token_R += [slot // topk for slot in part + part[:1] * (EXPERT_ROWS - len(part))]
    slots = sorted(place_of_slot)
    counts = [0] * tokens
    for slot in slots:
        counts[slot // topk] += 1
    starts = [sum(counts[:token]) for token in range(tokens)]
    indices = (token_R, [place_of_slot[slot] for slot in slots], slots, starts)
    return Order(experts, [EXPERT_ROWS] * len(experts), *(torch.tensor(x, dtype=torch.int64) for x in indices))
