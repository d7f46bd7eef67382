"""Sources of draft tokens.

A proposer proposes one token for each of the next positions. The step computes the logits of all of them, and the
sampler chooses a token at every position with that position's own random number. A draft counts as long as it is the
chosen token, so drafts change the speed of a text, never the text. For proposals without a distribution of their own
this accepts a draft as often as rejection sampling does (Leviathan et al. 2023, arXiv 2211.17192, with q = 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from longcat.stages.inference.draft_price import DraftPrice
from longcat.stages.inference.step_item import StepItem

if TYPE_CHECKING:
    from torch import Tensor

# Longest and shortest repeated sequence of tokens that is looked up.
LONGEST, SHORTEST = 4, 2
# Tokens searched, so that a step of a long text stays cheap.
SEARCHED = 4096


class Proposer(ABC):
    """Proposes drafts for the next step, after the tokens of a step were chosen."""

    price = DraftPrice((1,), (0.0,))

    @abstractmethod
    def propose(self, items: Sequence[StepItem], hidden_TD: Tensor) -> None:
        """Set drafts of decoding sequences; `hidden_TD` are the hidden states of the tokens of `items`, in order."""


class NgramProposer(Proposer):
    """Proposes what followed the last tokens when they occurred before (prompt lookup decoding, Saxena 2023)."""

    def __init__(self, count: int) -> None:
        self._count = count

    def propose(self, items: Sequence[StepItem], hidden_TD: Tensor) -> None:
        for item in items:
            branch = item.branch
            if branch.sequence.remaining == 1 and branch.drafting:
                branch.sequence.drafts = repeated(branch.sequence.ids, self._count)


def repeated(ids: Sequence[int], count: int) -> list[int]:
    """The up to `count` tokens that followed the last earlier occurrence of the final tokens of `ids`."""
    recent = list(ids[-SEARCHED:])
    for length in range(min(LONGEST, len(recent) - 1), SHORTEST - 1, -1):
        pattern = recent[-length:]
        for start in range(len(recent) - length - 1, -1, -1):
            if recent[start : start + length] == pattern:
                return recent[start + length : start + length + count]
    return []
