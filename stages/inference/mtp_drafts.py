"""Drafts of the model's own multi-token prediction (LongCat-Flash report, section 2.4).

The layer predicts token t + 2 from the hidden state of position t and token t + 1. Its state for position t is computed
one step after that of the other layers, when token t + 1 is known, in the same pages.

Names: T tokens of the step, D hidden, R rows of logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longcat.model.step import Piece, StepBatch
from longcat.stages.inference.drafts import Proposer
from longcat.stages.inference.runner import StepRunner
from longcat.stages.inference.sequence import Sequence as Tokens
from longcat.stages.inference.step_item import StepItem


class _Row(NamedTuple):
    """The verified positions `first` to `end - 1` of a sequence, whose states are `places` of the step."""

    sequence: Tokens
    first: int
    end: int
    places: range
    decoding: bool


class MTPProposer(Proposer):
    """Proposes up to `count` tokens by multi-token prediction, each further one from the prediction before it."""

    def __init__(self, runner: StepRunner, count: int) -> None:
        self._runner = runner
        self._count = count

    @torch.inference_mode()
    def propose(self, items: Sequence[StepItem], hidden_TD: Tensor) -> None:
        rows = _rows(items)
        if not rows:
            return
        index_T = torch.tensor([place for row in rows for place in row.places], device=hidden_TD.device)
        pieces = [
            _piece(row.sequence, row.sequence.ids[row.first + 1 : row.end + 1], row.first, int(row.decoding))
            for row in rows
        ]
        ids, hidden_RD = self._predict(hidden_TD[index_T], pieces)
        self._extend([row for row in rows if row.decoding], ids, hidden_RD)

    def predict_for(self, sequences: int) -> None:
        """Predict after one token of each of so many made-up sequences, to be timed."""
        width = self._runner.model.config.hidden_size
        hidden_TD = torch.zeros(sequences, width, device=self._runner.device, dtype=self._runner.cache.dtype)
        self._predict(hidden_TD, [Piece([0], 0, [page], 1, slot=page) for page in range(sequences)])

    def _extend(self, rows: list[_Row], ids: list[int], hidden_RD: Tensor) -> None:
        """Add these predictions to the drafts, and predict further ones after them."""
        for row, token in zip(rows, ids, strict=True):
            row.sequence.drafts.append(token)
        page_size = self._runner.cache.page_size
        going = [
            place
            for place, row in enumerate(rows)
            if len(row.sequence.drafts) < self._count
            and row.end + len(row.sequence.drafts) <= len(row.sequence.pages) * page_size
        ]
        if not going:
            return
        further = [rows[place] for place in going]
        pieces = [
            _piece(row.sequence, row.sequence.drafts[-1:], row.end + len(row.sequence.drafts) - 1, 1) for row in further
        ]
        index_R = torch.tensor(going, device=hidden_RD.device)
        self._extend(further, *self._predict(hidden_RD[index_R], pieces))

    def _predict(self, hidden_TD: Tensor, pieces: Sequence[Piece]) -> tuple[list[int], Tensor]:
        """Most likely tokens after the wanted rows, and the hidden states [R, D] they were predicted from."""
        runner = self._runner
        batch = StepBatch.of(pieces, runner.cache.page_size, runner.device)
        output = runner.model.mtp_step(hidden_TD, batch, runner.cache)
        hidden_TD = output.hidden_TD
        wanted_RD = hidden_TD if batch.wanted_R is None else hidden_TD.index_select(0, batch.wanted_R)
        return output.logits_RV[:, : runner.vocab_size].argmax(-1).tolist(), wanted_RD


def _piece(sequence: Tokens, ids: list[int], start: int, logits: int) -> Piece:
    return Piece(ids, start, sequence.pages, logits, slot=sequence.slot, dense=sequence.prompt_length)


def _rows(items: Sequence[StepItem]) -> list[_Row]:
    """What the step verified, of the sequences that draft; `items` are in the order of its tokens."""
    rows, start = [], 0
    for item in items:
        sequence, places = item.branch.sequence, range(start, start + item.length)
        start += item.length
        end = min(item.end, sequence.computed)
        if item.branch.drafting and end > item.first:
            rows.append(_Row(sequence, item.first, end, places[: end - item.first], sequence.remaining == 1))
    return rows
