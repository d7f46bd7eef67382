"""A sequence of tokens that is being computed: its ids, and how far its cache reaches."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum


class Status(Enum):
    """Where a sequence stands; a preempted one has lost its pages and is admitted before those that wait."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


@dataclass(eq=False)
class Sequence:
    """A prompt and its continuation.

    The caller appends generated tokens to `ids` and sets `drafts`; it may raise `reuse_limit`. The scheduler owns the
    remaining state.

    Args:
        ids: the prompt, then the generated tokens.
        max_length: most tokens that `ids` will ever hold.
        group: the request; sequences of a request share its part of the budget.
        key: the client; clients share the budget equally.
        reuse_limit: positions from here on are computed, even if their pages are known: their logits are wanted.
        drafts: proposed tokens after `ids`, to be verified by the next step.
    """

    ids: list[int]
    max_length: int
    group: Hashable
    key: Hashable = ""
    reuse_limit: int | None = None
    drafts: list[int] = field(default_factory=list)

    prompt_length: int = field(init=False)
    status: Status = field(default=Status.WAITING, init=False)
    # Positions 0 .. computed - 1 are in `pages`.
    computed: int = field(default=0, init=False)
    pages: list[int] = field(default_factory=list, init=False)
    # Positions of the prompt that needed no computation at the first admission.
    cached: int = field(default=0, init=False)
    # Number of a state slot, unique among running sequences.
    slot: int = field(default=-1, init=False)

    # Digests of the full pages of `ids`, and how many of them this sequence's own pages are registered under.
    chain: list[bytes] = field(default_factory=list, init=False, repr=False)
    registered: int = field(default=0, init=False, repr=False)
    # Kept over preemption, so that a sequence does not become younger.
    admission: int = field(default=-1, init=False, repr=False)
    arrival: int = field(default=-1, init=False, repr=False)
    parent: Sequence | None = field(default=None, init=False, repr=False)
    forks: list[Sequence] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.ids or self.max_length < len(self.ids):
            raise ValueError(f"a sequence of {len(self.ids)} ids and a maximum length of {self.max_length}")
        self.prompt_length = len(self.ids)

    @property
    def remaining(self) -> int:
        """Number of ids that are not computed; 1 while decoding."""
        return len(self.ids) - self.computed

    @property
    def reusable(self) -> int:
        """Most positions that may come from known pages: the last id is computed in any case, for its logits."""
        limit = len(self.ids) - 1
        return limit if self.reuse_limit is None else min(limit, self.reuse_limit)

    def tokens(self, first: int, count: int) -> list[int]:
        """The ids at positions `first` .. `first + count - 1`; drafts follow the ids."""
        end = first + count
        return self.ids[first:end] + self.drafts[: max(0, end - len(self.ids))]
