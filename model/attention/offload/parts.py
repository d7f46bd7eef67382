"""Which tokens of a step attend to what in an offloaded cache; the same for every attention slot.

Tokens of prompts attend to all positions, in the slow tier. Later ones attend to the fast tier: to all positions while
their blocks fit it, then to chosen ones, one token after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from longcat.model.attention.pages import Span, StepLayout


class Token(NamedTuple):
    """A token that attends to chosen positions. place: among those of its part; sequence: its piece in the step."""

    place: int
    position: int
    slot: int
    sequence: int


class Part(NamedTuple):
    """Tokens of a step, int64 [N], None if they are all of them, and their spans and pages as a step of their own."""

    tokens_N: torch.Tensor | None
    layout: StepLayout


class Parts(NamedTuple):
    """whole: tokens of prompts. fitting: tokens whose sequences fit the fast tier. sparse: the others, and how to take
    them. last: for every prompt that ends in the step and does not fit, its last token, as its place in the step.
    """

    whole: Part | None
    fitting: Part | None
    sparse: Part | None
    sparse_tokens: tuple[Token, ...]
    last: tuple[Token, ...]


def divide(layout: StepLayout, dense_positions: int) -> Parts:
    """Divide the tokens of a step."""
    pieces: list[list[tuple[int, Span]]] = [[], [], []]
    last = []
    for index, span in enumerate(layout.spans):
        prompt = span.length if span.dense is None else min(max(span.dense, span.start), span.length)
        fitting = min(max(prompt, dense_positions), span.length)
        bounds = (span.start, prompt, fitting, span.length)
        for kind, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                pieces[kind].append((index, Span(span.first + start - span.start, end - start, start, span.slot)))
        if span.start < prompt == span.dense and prompt > dense_positions:
            last.append(Token(span.first + prompt - 1 - span.start, prompt - 1, span.slot, index))
    whole, fit, sparse = (_part(layout, found) for found in pieces)
    return Parts(whole, fit, sparse, tuple(_tokens(pieces[2])), tuple(last))


def _part(layout: StepLayout, pieces: Sequence[tuple[int, Span]]) -> Part | None:
    if not pieces:
        return None
    if [span for _, span in pieces] == [span._replace(dense=None) for span in layout.spans]:
        return Part(None, layout)
    tokens: list[int] = []
    spans, end = [], 0
    for _, span in pieces:
        tokens += range(span.first, span.end)
        spans.append(span._replace(first=end))
        end += span.tokens
    tables = [layout.tables[index] for index, _ in pieces]
    tokens_N = torch.tensor(tokens, device=layout.device)
    return Part(tokens_N, StepLayout(spans, tables, layout.page_size, layout.device))


def _tokens(pieces: Sequence[tuple[int, Span]]) -> list[Token]:
    found: list[Token] = []
    for index, span in pieces:
        for position in range(span.start, span.length):
            found.append(Token(len(found), position, span.slot, index))
    return found
