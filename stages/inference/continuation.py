"""A continuation while it is written: its text, log-probabilities and end. No model and no sampling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, NamedTuple

from longcat.stages.inference.detokenize import TextStream, TokenBytes
from longcat.stages.inference.sampling import SamplingParams, TokenLogprobs

FinishReason = Literal["stop", "length"]


class Chosen(NamedTuple):
    """A token chosen by the sampler, its log-probabilities and its activated FFN experts by layer, if requested."""

    token: int
    logprobs: TokenLogprobs | None = None
    expert_counts: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TokenEntry:
    """Log-probabilities of one generated token; `offset` is its character offset in the text."""

    logprobs: TokenLogprobs
    offset: int


@dataclass(frozen=True)
class Delta:
    """Result of one step for continuation `choice`.

    Text and entries may lag behind `token_ids`: a possible start of a stop string is held back. `expert_counts`, if
    requested: for each token, how many FFN experts each layer activated to predict it. `accepted` of `drafted` proposed
    tokens were among these tokens.
    """

    choice: int
    text: str
    token_ids: tuple[int, ...]
    entries: tuple[TokenEntry, ...] = ()
    finish_reason: FinishReason | None = None
    expert_counts: tuple[tuple[int, ...], ...] = ()
    drafted: int = 0
    accepted: int = 0


class Continuation:
    """Text, log-probabilities and end of continuation `choice`."""

    def __init__(
        self, token_bytes: TokenBytes, params: SamplingParams, stop_tokens: Iterable[int], choice: int
    ) -> None:
        """`stop_tokens` end the text in addition to those of `params`, unless it ignores them."""
        self.choice = choice
        self.tokens = 0
        self._params = params
        self._stop_tokens = {*params.stop_token_ids, *(() if params.ignore_eos else stop_tokens)}
        self._text = TextStream(token_bytes, params.stop)
        self._waiting: list[tuple[int, TokenEntry]] = []

    @property
    def stop_tokens(self) -> frozenset[int]:
        """All ids that end this continuation."""
        return frozenset(self._stop_tokens)

    def accept(self, chosen: Sequence[Chosen], *, ended: bool = False, drafted: int = 0) -> Delta:
        """Add tokens up to the first that ends the text; `ended`: the text ends after them in any case.

        `drafted`: number of proposed tokens in the step, of which all but the last token are accepted ones.
        """
        text, reason, used = "", None, 0
        for one in chosen:
            piece, reason = self._add(one)
            text, used = text + piece, used + 1
            if reason is not None:
                break
        if reason is None and ended:
            reason = "stop"
        if reason is not None:
            text += self._text.finish()
        taken = chosen[:used]
        counts = tuple(one.expert_counts for one in taken if one.expert_counts is not None)
        return Delta(
            self.choice,
            text,
            tuple(one.token for one in taken),
            self._release(),
            reason,
            counts,
            drafted,
            min(len(chosen) - 1, used) if drafted else 0,
        )

    def _add(self, chosen: Chosen) -> tuple[str, FinishReason | None]:
        self.tokens += 1
        before = self._text.decoded
        at_stop_token = chosen.token in self._stop_tokens
        text = "" if at_stop_token else self._text.push(chosen.token)
        if chosen.logprobs is not None:
            self._waiting.append((self._text.decoded, TokenEntry(chosen.logprobs, before)))
        if at_stop_token or self._text.stopped:
            return text, "stop"
        return text, "length" if self.tokens == self._params.max_tokens else None

    def _release(self) -> tuple[TokenEntry, ...]:
        """Entries whose text has been emitted; tokens inside a stop string are excluded."""
        if self._text.stopped:
            ready = [entry for _, entry in self._waiting if entry.offset < self._text.shown]
            self._waiting.clear()
            return tuple(ready)
        count = sum(1 for _ in takewhile(lambda item: item[0] <= self._text.shown, self._waiting))
        ready = [entry for _, entry in self._waiting[:count]]
        del self._waiting[:count]
        return tuple(ready)
