"""Interface of grammars that limit which tokens may come next; `structured` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Matcher(Protocol):
    """Position of one continuation in its grammar."""

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing but its end can follow."""

    def mask(self, words_W: Tensor) -> None:
        """Write the tokens allowed next into int32 words [W] on the CPU, one bit each, the lowest bit first.

        None are allowed if the text has become too complex for the grammar; the sampler reports that.
        """

    def accept(self, token: int) -> None:
        """Advance by a token; InputError if the grammar does not allow it."""

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        """Number of the leading `tokens` that could be accepted one after another; nothing is changed."""

    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens."""


class Grammar(Protocol):
    """A compiled grammar, shared by any number of continuations."""

    def matcher(self) -> Matcher:
        """A matcher at the start of the text."""
