"""Pieces of a step cut into tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from longcat.model.step import Piece


def tiles(pieces: Sequence[Piece], rows: int) -> Iterator[list[Piece]]:
    """Pieces of `rows` tokens at a time, in order; the last tile may have fewer. A piece is cut where a tile ends."""
    tile: list[Piece] = []
    free = rows
    for piece in pieces:
        first = 0
        while first < len(piece.ids):
            end = min(first + free, len(piece.ids))
            tile.append(_part(piece, first, end))
            free -= end - first
            first = end
            if not free:
                yield tile
                tile, free = [], rows
    if tile:
        yield tile


def _part(piece: Piece, first: int, end: int) -> Piece:
    """Tokens `first` to `end - 1` of a piece."""
    wanted = max(0, end - max(first, len(piece.ids) - piece.logits))
    return piece._replace(
        ids=piece.ids[first:end],
        start=piece.start + first,
        logits=wanted,
        previous=[*piece.previous, *piece.ids[:first]] if piece.previous or first else (),
    )
