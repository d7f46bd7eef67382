"""States of mixers in a step over many sequences: values per position in pages, or one state per sequence in a slot.

Names: P pages, L positions per page, W values per position, T tokens of the step, S positions of a sequence, Q slots.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch

from longcat.kernels.mla_paged_decode import SequencePages
from longcat.kernels.mla_paged_decode.cpu import Memory
from longcat.model.errors import ModelError

Made = TypeVar("Made")


class PerPosition(NamedTuple):
    """State kind: `width` values for every `every` cached positions, kept in pages whose size `every` divides.

    offloaded: the pages are in the slow tier of a cache (`model.attention.offload`).
    """

    width: int
    every: int = 1
    offloaded: bool = False


class PerSequence(NamedTuple):
    """State kind: one tensor of this shape for every sequence, kept in a slot; it cannot go back to an earlier length.

    Callers that want to go back keep a copy of the slot (`PagedCache.copy_slot`), or compute the sequence again.
    wide: in float32 also if the model is in half precision, for states whose rounding adds up over the sequence.
    """

    shape: tuple[int, ...]
    wide: bool = False


class Several(NamedTuple):
    """State kind: one state of each of these; the mixer gets them as a tuple in this order."""

    kinds: tuple[PerPosition | PerSequence, ...]


StateKind = PerPosition | PerSequence | Several


class Span(NamedTuple):
    """Consecutive tokens of one sequence in a step: tokens `first` to `end - 1`, after `start` cached positions.

    dense: positions below this one attend to all earlier ones, see `model.step.Piece`.
    """

    first: int
    tokens: int
    start: int
    slot: int
    dense: int | None = None

    @property
    def end(self) -> int:
        """One past the last token in the step."""
        return self.first + self.tokens

    @property
    def length(self) -> int:
        """Positions of the sequence, with these tokens."""
        return self.start + self.tokens


class Group(NamedTuple):
    """Sequences with equally many tokens in a step."""

    tokens: int
    sequences: SequencePages


class Division(NamedTuple):
    """Pieces of a step that a mixer takes together, and the others, one by one.

    tokens_Y: tokens of the former in the order of the groups, None if these are all tokens in the step's order.
    """

    tokens_Y: torch.Tensor | None
    groups: tuple[Group, ...]
    others: tuple[int, ...]


class StepLayout:
    """Where the tokens of a step and the cached positions of their sequences are; made once, used by every layer."""

    def __init__(
        self, spans: Sequence[Span], tables: Sequence[Sequence[int]], page_size: int, device: torch.device
    ) -> None:
        self.spans, self.tables = tuple(spans), tuple(tuple(table) for table in tables)
        self.page_size, self.device = page_size, device
        self._made: dict[Hashable, Any] = {}

    @cached_property
    def sequences(self) -> SequencePages:
        """Pages of every sequence, up to the last token of the step."""
        return SequencePages.of(self.tables, [span.length for span in self.spans], self.page_size, self.device)

    @cached_property
    def queries(self) -> SequencePages:
        """The same for every token, as if it were a sequence: pages and number of the positions that it sees."""
        seen = [
            (table, position + 1)
            for span, table in zip(self.spans, self.tables, strict=True)
            for position in range(span.start, span.length)
        ]
        tables, lengths = zip(*seen, strict=True)
        return SequencePages.of(tables, lengths, self.page_size, self.device)

    @property
    def page_range(self) -> tuple[int, int]:
        """The lowest and the greatest page that is used."""
        return min(min(table) for table in self.sequences.used()), self.sequences.last_page

    @cached_property
    def places_T(self) -> torch.Tensor:  # noqa: N802
        """Place of every token among all positions of the pages, int64 [T]."""
        return torch.tensor(self._places, dtype=torch.int64).to(self.device, non_blocking=True)

    @cached_property
    def first_place(self) -> int | None:
        """Place of the first token if the places of all are consecutive, else None."""
        places = self._places
        return places[0] if places == list(range(places[0], places[0] + len(places))) else None

    @cached_property
    def _places(self) -> list[int]:
        size = self.page_size
        return [
            table[position // size] * size + position % size
            for span, table in zip(self.spans, self.tables, strict=True)
            for position in range(span.start, span.length)
        ]

    def divided(self, key: Hashable, together: Callable[[Span], bool]) -> Division:
        """Division by whether a piece is taken together with others of equally many tokens; found once for each key."""
        return self.once(key, lambda: self._divide([index for index, span in enumerate(self.spans) if together(span)]))

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` returned for this key the first time."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def _divide(self, chosen: Sequence[int]) -> Division:
        by_tokens: dict[int, list[int]] = {}
        for index in chosen:
            by_tokens.setdefault(self.spans[index].tokens, []).append(index)
        groups = tuple(Group(tokens, self._sequences_of(indices)) for tokens, indices in by_tokens.items())
        spans = [self.spans[index] for indices in by_tokens.values() for index in indices]
        order = [token for span in spans for token in range(span.first, span.end)]
        if order == list(range(self.spans[-1].end)):
            return Division(None, groups, ())
        others = tuple(index for index in range(len(self.spans)) if index not in set(chosen))
        return Division(torch.tensor(order, dtype=torch.int64).to(self.device, non_blocking=True), groups, others)

    def _sequences_of(self, indices: Sequence[int]) -> SequencePages:
        if len(indices) == len(self.spans):
            return self.sequences
        tables, lengths = [self.tables[index] for index in indices], [self.spans[index].length for index in indices]
        return SequencePages.of(tables, lengths, self.page_size, self.device)


class PageState:
    """The pages of one mixer, [P, L, W]; L is the number of rows of a page, one for every `PerPosition.every`."""

    def __init__(self, pages_PLW: torch.Tensor) -> None:
        self.pages_PLW = pages_PLW
        self._positions_NW = pages_PLW.view(-1, pages_PLW.shape[-1])
        self._memory: dict[int, Memory] = {}

    def store(self, layout: StepLayout, values_TW: torch.Tensor) -> None:
        """Write the values of all tokens of the step to their places."""
        first = layout.first_place
        if first is None:
            self._positions_NW.index_copy_(0, layout.places_T.to(values_TW.device), values_TW)
        else:
            self._positions_NW.narrow(0, first, values_TW.shape[0]).copy_(values_TW)

    def read(self, layout: StepLayout, index: int) -> torch.Tensor:
        """Values [S, W] of the sequence of piece `index`, up to its last token; a view if its pages are consecutive."""
        return layout.sequences.rows[index].read(self._positions_NW)

    def read_every(self, layout: StepLayout, index: int, every: int) -> torch.Tensor:
        """The same for a state with one row for `every` positions: rows of all that the positions fill or begin."""
        row = layout.sequences.rows[index]
        count = -(-row.length // every)
        if row.places_S is None:
            return self._positions_NW.narrow(0, row.first // every, count)
        return self._positions_NW.index_select(0, row.places_S[::every] // every)

    def memory(self, latent_width: int) -> Memory:
        """The pages as attention on a CPU reads them; the views are made once."""
        if latent_width not in self._memory:
            self._memory[latent_width] = Memory.of(self.pages_PLW, latent_width)
        return self._memory[latent_width]


class SlotState:
    """The states of one mixer by slot, [Q, ...], and the number of positions that each has seen."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.lengths = [0] * values.shape[0]

    def read(self, span: Span) -> torch.Tensor:
        """State of the sequence before the tokens of `span`; zeros at its start.

        Raises:
            ModelError: the slot holds the state after another position.
        """
        self.check(span)
        return self.values[span.slot] if span.start else torch.zeros_like(self.values[span.slot])

    def check(self, span: Span) -> None:
        """Raise ModelError unless the slot holds the state before the tokens of `span`, or these are the first."""
        if span.start and self.lengths[span.slot] != span.start:
            raise ModelError(
                f"slot {span.slot} holds the state after {self.lengths[span.slot]} positions and the tokens begin at "
                f"{span.start}; copy a slot that was kept there, or compute the sequence again from its start"
            )

    def write(self, span: Span, value: torch.Tensor) -> None:
        """Keep the state after the last token of `span`."""
        self.values[span.slot] = value
        self.advance(span)

    def advance(self, span: Span) -> None:
        """Note that the state is that after the last token of `span`."""
        self.lengths[span.slot] = span.length

    def copy(self, source: int, target: int) -> None:
        """Copy a slot to another one."""
        self.values[target] = self.values[source]
        self.lengths[target] = self.lengths[source]


SingleState = PageState | SlotState
StepState = SingleState | tuple[SingleState, ...]
