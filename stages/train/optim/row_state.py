"""State of `RowAdamW` in saves and checkpoints: whole tensors, whatever the number of processes that hold the rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from longcat.stages.train.checkpoints.shards import Part, ShardReader, Slice
from longcat.stages.train.optim.adamw import NamedParameters, by_row, moments
from longcat.stages.train.optim.row_adamw import ROW_KEYS, row_state, shapes
from longcat.stages.train.parallel.control import control
from longcat.stages.train.parallel.state import local_part


def tables_by_row(model: NamedParameters, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    """Tables of this process that `RowAdamW` updates, by name."""
    own = by_row(optimizer)
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter in own)


def saved_moments(model: NamedParameters, optimizer: torch.optim.Optimizer) -> dict[str, Part]:
    """`moments`, with the rows of a process as a part of those of all; collective."""
    found: dict[str, Part] = dict(moments(model, optimizer))
    if control().size == 1:
        return found
    tables = {name: table for name, table in tables_by_row(model, optimizer) if table in optimizer.state}
    own = {name: [_first(table), len(optimizer.state[table]["rows"])] for name, table in tables.items()}
    everywhere = control().gather(own)
    for name, table in tables.items():
        # Replicas hold the same rows.
        counts = {start: count for each in everywhere if name in each for start, count in [each[name]] if count}
        before = sum(count for start, count in counts.items() if start < _first(table))
        for key in ROW_KEYS:
            held = optimizer.state[table][key]
            shape = (sum(counts.values()), *held.shape[1:])
            found[f"{name}.{key}"] = Slice(held, shape, (before, *(0 for _ in held.shape[1:])))
    return found


def _first(table: nn.Parameter) -> int:
    """First row of this process's part."""
    return local_part(table)[1][0].start


def load_rows(model: NamedParameters, optimizer: torch.optim.Optimizer, stored: ShardReader) -> None:
    """Load the state of this process's rows from a save.

    Raises:
        IntegrityError: a tensor is missing, or does not fit its table.
    """
    for name, table in tables_by_row(model, optimizer):
        count = stored.shapes.get(f"{name}.rows", (0,))[0]
        if count:
            made = {
                f"{name}.{key}": torch.empty(shape, dtype=dtype)
                for key, (shape, dtype) in shapes(count, table.shape[1], table.dtype).items()
            }
            stored.load(made)
            optimizer.state[table] = row_state(name, table, made)
