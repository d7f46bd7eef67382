"""Check of the libraries: a row of a tile has the same bits at every place, beside any other rows.

Names: T rows of the tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from longcat.model.errors import ModelError
from longcat.model.paged_cache import PagedCache
from longcat.model.step import Piece
from longcat.model.tiles.model import ROWS, TiledModel


class _Found(NamedTuple):
    """What a module returned for one token."""

    name: str
    module: nn.Module
    value: torch.Tensor


@torch.no_grad()
def check_places(tiled: TiledModel) -> None:
    """Compute ROWS texts of one token at every place of a tile, and two alone; all modules must return the same bits.

    Raises:
        ModelError: a module whose rows depend on their place or on other rows; the message names it and its shapes.
    """
    cache = tiled.module.new_pages(ROWS, 1)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, tiled.module.config.vocab_size, (ROWS,), generator=generator).tolist()
    expected = _compute(tiled, cache, ids, range(ROWS))
    for turn in range(1, ROWS):
        order = [*range(turn, ROWS), *range(turn)]
        _compare(expected, _compute(tiled, cache, ids, order))
    for token in (0, ROWS - 1):
        _compare(expected, _compute(tiled, cache, ids, [token]))


def _compute(tiled: TiledModel, cache: PagedCache, ids: list[int], order: range | list[int]) -> dict[int, list[_Found]]:
    """By token, the results of all modules in the order of execution; row `i` of the tile is token `order[i]`."""
    pieces = [Piece([ids[token]], 0, [token]) for token in order]
    with _recorded(tiled.module) as found:
        output = tiled.step(pieces, cache)
    results = [(name, module, _rows(result)) for name, module, result in found]
    results.append(("output", tiled.module, output.logits_RV))
    return {
        token: [_Found(name, module, rows[place]) for name, module, rows in results if rows is not None]
        for place, token in enumerate(order)
    }


@contextmanager
def _recorded(root: nn.Module) -> Iterator[list[tuple[str, nn.Module, Any]]]:
    """Results of all modules of `root` while the context is open."""
    found: list[tuple[str, nn.Module, Any]] = []

    def keep(name: str) -> Any:
        return lambda module, _, result: found.append((name, module, result))

    hooks = [module.register_forward_hook(keep(name)) for name, module in root.named_modules() if name]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _rows(result: Any) -> torch.Tensor | None:
    """The first tensor of a module's result as one row of values per row of the tile; None if it has other rows."""
    while isinstance(result, tuple):
        result = result[0]
    if not isinstance(result, torch.Tensor) or result.shape[:1] == (ROWS,):
        return result if isinstance(result, torch.Tensor) else None
    return result[0] if result.shape[:2] == (1, ROWS) else None


def _compare(expected: dict[int, list[_Found]], found: dict[int, list[_Found]]) -> None:
    for token, results in found.items():
        for before, after in zip(expected[token], results, strict=True):
            if not torch.equal(before.value, after.value):
                what = " ".join(repr(after.module).split())
                raise ModelError(
                    f"{after.name}, {what}: a row depends on its place in a tile of {ROWS} here, so the same "
                    "text does not get the same bits in every batch"
                )
