"""Tokens of one sequence that its penalties look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from longcat.stages.inference.sampling import SamplingParams


class TokenHistory:
    """Distinct ids of prompt and continuation, with the number of times each was generated."""

    def __init__(self, prompt_ids: Sequence[int] = ()) -> None:
        prompt = np.unique(np.asarray(prompt_ids, dtype=np.int64))
        self._ids = prompt
        self._counts = np.zeros(len(prompt), dtype=np.int64)
        self._size = len(prompt)
        self._slots = {token: slot for slot, token in enumerate(prompt.tolist())}

    @classmethod
    def of(cls, params: SamplingParams, prompt_ids: Sequence[int]) -> TokenHistory | None:
        """The history that `params` needs; None if they have no penalty."""
        if params.repetition_penalty != 1:
            return cls(prompt_ids)
        return cls() if params.presence_penalty or params.frequency_penalty else None

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """Distinct ids [N] of prompt and continuation."""
        return self._ids[: self._size]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Number of times each was generated, [N]."""
        return self._counts[: self._size]

    def append(self, token: int) -> None:
        """Count a generated token."""
        slot = self._slots.setdefault(token, self._size)
        if slot == self._size:
            self._reserve()
            self._ids[slot], self._counts[slot] = token, 0
            self._size += 1
        self._counts[slot] += 1

    def followed_by(self, tokens: Iterable[int]) -> TokenHistory:
        """A copy with these tokens generated as well: the history of a draft's row."""
        result = TokenHistory()
        result._ids, result._counts = self.ids.copy(), self.counts.copy()
        result._size, result._slots = self._size, dict(self._slots)
        for token in tokens:
            result.append(token)
        return result

    def _reserve(self) -> None:
        if self._size == len(self._ids):
            room = max(64, self._size)
            self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.int64)])
