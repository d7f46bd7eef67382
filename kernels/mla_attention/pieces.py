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

    @property
    def length(self) -> int:
        return self.keys.stop - self.keys.start

    @property
    def step(self) -> int:
        """Queries of a full block."""
        return QUERIES if self.length < LONG else 2 * QUERIES

    def blocks(self) -> Iterator[Block]:
        first, seen = self.queries.start, self.length - (self.queries.stop - self.queries.start)
        while first < self.queries.stop:
            count = min(self.step - seen % self.step, self.queries.stop - first)
            yield Block(slice(first, first + count), seen, seen + count)
            first, seen = first + count, seen + count

    def tile(self, start: int, seen: int) -> slice:
        """The keys before position `seen` of the tile that starts at position `start`."""
        return slice(self.keys.start + start, self.keys.start + min(start + KEYS, seen))


class Group(NamedTuple):
    """Rows of the batch and heads that are computed together."""

    rows: slice
    heads: slice

    def of(self, x_BTHW: torch.Tensor) -> torch.Tensor:
        """A view by head, [rows, heads, T, W]."""
        return x_BTHW[self.rows, :, self.heads].transpose(1, 2)


def pieces_of(queries: int, keys: int) -> list[Piece]:
    """The only piece of rows of one document each."""
    return [Piece(slice(0, queries), slice(0, keys))]


def pieces_of_documents(documents: DocumentBounds) -> list[Piece]:
    """The documents of all rows, as places in the flattened tokens."""
    spans = (slice(*bounds) for bounds in pairwise(accumulate(documents.lengths, initial=0)))
    return [Piece(span, span) for span in spans]


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
