"""A step over many sequences: their new tokens, flattened, go through the layers as one row.

Pieces of prompts, single tokens and drafts are mixed freely. Nothing here computes: `LongcatFlash.step` runs a batch.

Names: T tokens of all pieces, R rows whose logits are wanted, V vocabulary, D hidden, N ids before a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from longcat.model.attention.pages import Span, StepLayout
from longcat.model.errors import ModelError
from longcat.model.moe.mixture import LayerRouting


class Piece(NamedTuple):
    """Consecutive tokens of one sequence.

    ids: tokens at positions `start`, `start + 1`, ...; the positions before are cached. pages: page numbers in the
    order of the positions, enough for all of them. logits: number of last tokens whose logits are wanted. previous: the
    ids before `start`, at least as many as the embedding looks back; only for embeddings of earlier ids. slot: place of
    the sequence's state, for mixers that keep one per sequence. dense: number of first positions, such as those of a
    prompt, that attend to all earlier ones even in an offloaded cache (`model.attention.offload`); None for all.
    """

    ids: Sequence[int]
    start: int
    pages: Sequence[int]
    logits: int = 1
    previous: Sequence[int] = ()
    slot: int = 0
    dense: int | None = None


class StepBatch(NamedTuple):
    """Pieces as tensors; `StepBatch.of` makes one.

    ids_1T: int64. previous_1TN: ids before every token, None unless an embedding needs them. positions_T: int64.
    wanted_R: int64, tokens whose logits are wanted, in order; None if all are. rows: R. ids_end: greatest id plus one.
    """

    ids_1T: torch.Tensor
    previous_1TN: torch.Tensor | None
    positions_T: torch.Tensor
    wanted_R: torch.Tensor | None
    rows: int
    ids_end: int
    layout: StepLayout

    @classmethod
    def of(
        cls, pieces: Sequence[Piece], page_size: int, device: torch.device | str = "cpu", look_back: int = 0
    ) -> StepBatch:
        """Batch of the pieces, in this order. `look_back`: that of the model's embedding.

        Raises:
            ModelError: there is no piece, a piece has no tokens, too few pages, more wanted logits than tokens or too
                few previous ids, or two pieces would write to the same page.
        """
        device = torch.device(device)
        check_pieces(pieces, page_size, look_back)
        spans = list(_spans(pieces))
        ids = [token for piece in pieces for token in piece.ids]
        positions = [position for span in spans for position in range(span.start, span.length)]
        wanted = [
            token
            for piece, span in zip(pieces, spans, strict=True)
            for token in range(span.end - piece.logits, span.end)
        ]
        return cls(
            ids_1T=_on(device, [ids]),
            previous_1TN=_on(device, [list(_previous(pieces, look_back))]) if look_back else None,
            positions_T=_on(device, positions),
            wanted_R=None if len(wanted) == len(ids) else _on(device, wanted),
            rows=len(wanted),
            ids_end=max(ids) + 1,
            layout=StepLayout(spans, [piece.pages for piece in pieces], page_size, device),
        )


class StepOutput(NamedTuple):
    """logits_RV: float32 (float64 of a model in float64), in the order of the pieces. hidden_TD: of all tokens, after
    the final norm. routing: of every layer.
    """

    logits_RV: torch.Tensor
    hidden_TD: torch.Tensor
    routing: tuple[LayerRouting, ...]


def _on(device: torch.device, values: Sequence[object]) -> torch.Tensor:
    made = torch.tensor(values, dtype=torch.int64)
    return made if device.type == "cpu" else made.pin_memory().to(device, non_blocking=True)


def _spans(pieces: Iterable[Piece]) -> Iterator[Span]:
    first = 0
    for piece in pieces:
        yield Span(first, len(piece.ids), piece.start, piece.slot, piece.dense)
        first += len(piece.ids)


def _wanted(piece: Piece, span: Span) -> range:
    return range(span.end - piece.logits, span.end)


def _previous(pieces: Iterable[Piece], look_back: int) -> Iterator[Sequence[int]]:
    """The `look_back` ids before every token, the nearest last; -1 before a sequence."""
    for piece in pieces:
        known = list(piece.previous)[-min(look_back, piece.start) :] if piece.start else []
        row = [-1] * (look_back - len(known)) + known + list(piece.ids)
        for token in range(len(piece.ids)):
            yield row[token : token + look_back]


def check_pieces(pieces: Sequence[Piece], page_size: int, look_back: int) -> None:
    """Raise ModelError unless the pieces can be a step, see `StepBatch.of`."""
    if not pieces:
        raise ModelError("a step needs at least one piece")
    written: set[int] = set()
    for piece in pieces:
        _check_piece(piece, page_size, look_back)
        own = set(piece.pages[piece.start // page_size : -(-(piece.start + len(piece.ids)) // page_size)])
        if written & own:
            raise ModelError(
                f"two pieces of a step write to page {min(written & own)}; copy the page for one of them first"
            )
        written |= own


def _check_piece(piece: Piece, page_size: int, look_back: int) -> None:
    count, end = len(piece.ids), piece.start + len(piece.ids)
    if not count or piece.start < 0:
        raise ModelError(f"a piece needs tokens from position 0 or later on, got {count} from {piece.start} on")
    if len(piece.pages) * page_size < end:
        raise ModelError(
            f"{len(piece.pages)} pages of {page_size} positions do not hold {end} positions; give the piece more pages"
        )
    if min(piece.pages) < 0:
        raise ModelError(f"page numbers begin at 0, the piece has page {min(piece.pages)}")
    if not 0 <= piece.logits <= count:
        raise ModelError(f"logits of {piece.logits} tokens are wanted of a piece of {count}")
    if len(piece.previous) < min(look_back, piece.start):
        raise ModelError(
            f"the embedding needs the {min(look_back, piece.start)} ids before position {piece.start}, the piece has "
            f"previous = {len(piece.previous)} of them"
        )
