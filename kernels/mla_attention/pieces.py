"""How causal attention on a CPU is divided: pieces of one document, blocks of queries, tiles of keys, groups of heads.

Blocks and tiles start at multiples of their sizes from the start of a document. So one tile of every block holds the
block's own positions, the others are seen by all its queries, and the tiles of a query do not depend on which other
queries are in the call.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

from longcat.kernels.mla_attention.documents import DocumentBounds
from longcat.kernels.mla_attention.window import Window

# Queries of a block and keys of a tile, and tiles of different heads per thread that are computed together. Other sizes
# between half and double of these change the time by less than a tenth. Long documents have blocks twice as long: the
# products are a few percent faster, and the hidden half of the scores near the diagonal is a small part of all.
QUERIES, KEYS, TILES = 128, 512, 4
LONG = 4096


class Block(NamedTuple):
    """Neighbouring queries; `position` is the first one's place in the document, `seen` is one past the last one's."""

    queries: slice
    position: int
    seen: int

    @property
    def diagonal(self) -> int:
        """Where the tile with the block's own positions starts."""
        return self.position // KEYS * KEYS


class Piece(NamedTuple):
    """Queries that are the last ones of the keys of a document."""

    queries: slice
    keys: slice
    window: Window | None = None

    @property
    def length(self) -> int:
        return self.keys.stop - self.keys.start

    @property
    def step(self) -> int:
        """Queries of a full block."""
        return QUERIES if self.length < LONG or self.window is not None else 2 * QUERIES

    def blocks(self) -> Iterator[Block]:
        first, seen = self.queries.start, self.length - (self.queries.stop - self.queries.start)
        while first < self.queries.stop:
            count = min(self.step - seen % self.step, self.queries.stop - first)
            yield Block(slice(first, first + count), seen, seen + count)
            first, seen = first + count, seen + count

    def tiles(self, block: Block) -> list[tuple[int, int]]:
        """Positions, from and to, of the tiles that a block sees; the first one holds its own positions.

        Each is part of one tile of the keys, so that gradients are summed tile by tile.
        """
        near = max(block.diagonal, self._lowest(block))
        before = [part for bounds in self._ranges(block) for part in _tiles_between(*bounds) if part[0] != near]
        return [(near, block.seen), *before]

    def _ranges(self, block: Block) -> tuple[tuple[int, int], ...]:
        """Positions that a block sees, all of them or the sinks and the window."""
        lowest = self._lowest(block)
        if self.window is None or not lowest:
            return ((0, block.seen),)
        return (0, min(self.window.sinks, lowest)), (lowest, block.seen)

    def _lowest(self, block: Block) -> int:
        """First position of the windows of a full block."""
        return 0 if self.window is None else self.window.lowest(block.position // self.step * self.step)

    def places(self, tile: tuple[int, int]) -> slice:
        """The keys at these positions of the document."""
        return slice(self.keys.start + tile[0], self.keys.start + tile[1])


def _tiles_between(low: int, high: int) -> Iterator[tuple[int, int]]:
    for start in range(low // KEYS * KEYS, high, KEYS):
        yield max(low, start), min(high, start + KEYS)


class Group(NamedTuple):
    """Rows of the batch and heads that are computed together."""

    rows: slice
    heads: slice

    def of(self, x_BTHW: torch.Tensor) -> torch.Tensor:
        """A view by head, [rows, heads, T, W]."""
        return x_BTHW[self.rows, :, self.heads].transpose(1, 2)


def pieces_of(queries: int, keys: int, window: Window | None = None) -> list[Piece]:
    """The only piece of rows of one document each."""
    return [Piece(slice(0, queries), slice(0, keys), window)]


def pieces_of_documents(documents: DocumentBounds, window: Window | None = None) -> list[Piece]:
    """The documents of all rows, as places in the flattened tokens."""
    spans = (slice(*bounds) for bounds in pairwise(accumulate(documents.lengths, initial=0)))
    return [Piece(span, span, window) for span in spans]


class Division:
    """Groups with a number of full tiles of scores for every thread, or with as many values in smaller tiles."""

    def __init__(self, batch: int, heads: int, pieces: list[Piece]) -> None:
        tile = max((_tile_size(piece) for piece in pieces), default=1)
        together = max(1, torch.get_num_threads() * TILES * QUERIES * KEYS // tile)
        rows = max(1, together // max(heads, 1))
        self.pieces = pieces
        self.groups = [
            Group(slice(row, row + rows), slice(head, head + together))
            for row in range(0, batch, rows)
            for head in range(0, heads, together)
        ]
        self.tile_values = min(together, rows * heads) * tile


def _tile_size(piece: Piece) -> int:
    return max(1, min(piece.step, piece.queries.stop - piece.queries.start) * min(KEYS, piece.length))
