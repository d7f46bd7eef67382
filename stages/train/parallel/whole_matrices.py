"""Functions of whole matrices whose rows are spread over processes.

Each process computes the function for some of the matrices: their rows are sent to it from all processes that share
them, and the rows of the result back. Every value travels twice, and no matrix is computed twice. Matrices that a
process holds whole, such as experts sharded by expert, do not travel.

Names: M rows, N columns, W processes that share the rows of a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard

from longcat.model.matrices import TOGETHER, Matrices

# Values of matrices that are exchanged at once, unless a single parameter has more.
BLOCK_VALUES = 1 << 25


Value = Callable[[nn.Parameter], torch.Tensor]
Function = Callable[[Sequence[torch.Tensor], Sequence[Matrices]], Sequence[torch.Tensor]]


def map_whole(
    parameters: Sequence[nn.Parameter], value: Value, matrices: Mapping[nn.Parameter, Matrices], function: Function
) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
    """Yield every parameter with this process's part of `function` of its whole matrices; collective.

    `value` returns this process's part of the tensor of a parameter [..., M, N]; `function` takes tensors of whole
    matrices [..., M, N], with the matrices of each, and returns tensors of the same shapes.
    """
    for group, members in _blocks(parameters):
        if group is None:
            own = [matrices[parameter] for parameter in members]
            yield from zip(members, function([value(parameter) for parameter in members], own), strict=True)
        else:
            yield from _Exchange(group, members).map(value, matrices, function)


def _sharing_rows(parameter: torch.Tensor) -> dist.ProcessGroup | None:
    """Processes that share the rows of a parameter's matrices; None if this one has whole matrices.

    Columns are never divided (`parallel.fsdp`).
    """
    if not isinstance(parameter, DTensor):
        return None
    mesh = parameter.device_mesh
    for dimension, placement in enumerate(parameter.placements):
        if isinstance(placement, Shard) and placement.dim == parameter.ndim - 2 and mesh.size(dimension) > 1:
            return mesh.get_group(dimension)
    return None


def _blocks(parameters: Sequence[nn.Parameter]) -> Iterator[tuple[dist.ProcessGroup | None, list[nn.Parameter]]]:
    """Consecutive parameters with the same group and a limited number of values together, or a larger one."""
    members: list[nn.Parameter] = []
    size, group = 0, None
    for parameter in parameters:
        own = _sharing_rows(parameter)
        limit = TOGETHER if own is None else BLOCK_VALUES
        if members and (own is not group or size + parameter.numel() > limit):
            yield group, members
            members, size = [], 0
        group = own
        members.append(parameter)
        size += parameter.numel()
    if members:
        yield group, members


@dataclass(frozen=True)
class _Piece:
    """A matrix: its parameter and place in the local stack, and the process that computes it."""

    parameter: nn.Parameter
    place: int
    owner: int

    def values(self, rank: int, size: int) -> int:
        """Number of its values that a process holds."""
        return len(_rows(self.parameter.shape[-2], rank, size)) * int(self.parameter.shape[-1])


class _Exchange:
    """One exchange of the matrices of some parameters, with rows on the same processes."""

    def __init__(self, group: dist.ProcessGroup, parameters: Sequence[nn.Parameter]) -> None:
        self.group, self.parameters = group, parameters
        self.rank, self.size = group.rank(), group.size()
        self.pieces = _assign(parameters, self.size)
        self.own = [piece for piece in self.pieces if piece.owner == self.rank]
        self.to_owners = [
            sum(piece.values(self.rank, self.size) for piece in self.pieces if piece.owner == owner)
            for owner in range(self.size)
        ]
        self.from_holders = [sum(piece.values(rank, self.size) for piece in self.own) for rank in range(self.size)]

    def map(
        self, value: Value, matrices: Mapping[nn.Parameter, Matrices], function: Function
    ) -> Iterator[tuple[nn.Parameter, torch.Tensor]]:
        parts = {parameter: value(parameter) for parameter in self.parameters}
        ordered = sorted(self.pieces, key=lambda piece: piece.owner)
        sent = torch.cat([_stack(parts[piece.parameter])[piece.place].flatten() for piece in ordered])
        whole = self._assembled(self._send(sent, self.to_owners, self.from_holders))
        mapped = function(whole, [matrices[piece.parameter] for piece in self.own])
        returned = self._send(self._divided(mapped, sent), self.from_holders, self.to_owners)
        results = {parameter: torch.empty_like(part) for parameter, part in parts.items()}
        sizes = [piece.values(self.rank, self.size) for piece in ordered]
        for piece, flat in zip(ordered, returned.split(sizes), strict=True):
            target = _stack(results[piece.parameter])[piece.place]
            target.copy_(flat.view_as(target))
        yield from results.items()

    def _send(self, values: torch.Tensor, sent: list[int], received: list[int]) -> torch.Tensor:
        incoming = values.new_empty(sum(received))
        dist.all_to_all_single(incoming, values, received, sent, group=self.group)
        return incoming

    def _assembled(self, received: torch.Tensor) -> list[torch.Tensor]:
        """Own matrices [M, N] from the rows of all processes, process by process."""
        sizes = [piece.values(rank, self.size) for rank in range(self.size) for piece in self.own]
        parts, count = received.split(sizes) if sizes else (), len(self.own)
        return [
            torch.cat(parts[number::count]).view(piece.parameter.shape[-2:]) for number, piece in enumerate(self.own)
        ]

    def _divided(self, whole: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """The inverse of `_assembled`."""
        parts = [
            matrix[rows.start : rows.stop].flatten()
            for rank in range(self.size)
            for matrix in whole
            for rows in [_rows(matrix.shape[0], rank, self.size)]
        ]
        return torch.cat(parts) if parts else like.new_empty(0)


def _rows(rows: int, rank: int, size: int) -> range:
    """Rows of a process, as `fully_shard` divides them."""
    chunk = -(-rows // size)
    return range(rows)[rank * chunk : (rank + 1) * chunk]


def _stack(part: torch.Tensor) -> torch.Tensor:
    """[number of matrices, rows, N], a view."""
    return part.view(-1, *part.shape[-2:]) if part.ndim > 2 else part[None]


def _assign(parameters: Sequence[nn.Parameter], size: int) -> list[_Piece]:
    """Give every matrix to the process with the least work so far, the largest first."""
    found = []
    for parameter in parameters:
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        found += [(parameter, place) for place in range(local.shape[0] if local.ndim > 2 else 1)]
    load = [0] * size
    owners: dict[int, int] = {}
    for number in sorted(range(len(found)), key=lambda number: -_cost(found[number][0])):
        owners[number] = load.index(min(load))
        load[owners[number]] += _cost(found[number][0])
    return [_Piece(parameter, place, owners[number]) for number, (parameter, place) in enumerate(found)]


def _cost(parameter: nn.Parameter) -> int:
    rows, columns = parameter.shape[-2:]
    return int(rows * columns * min(rows, columns))
