"""The inference engine: one checkpoint, read token by token or in bulk, with a latent cache.

Names: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from longcat.pipeline.errors import InputError
from longcat.stages.serve.sampling import Sampler, SamplingParams, TokenLogprobs, token_logprobs
from longcat.stages.serve.text import TextStream

if TYPE_CHECKING:
    from longcat.model.cache import LatentCache
    from longcat.model.config import ModelConfig
    from longcat.model.transformer import LongcatFlash
    from longcat.stages.serve.tokenizer import EngineTokenizer

# Bounds the memory of the logits and the time until a cancellation is noticed.
PREFILL_TOKENS = 256

Cancelled = Callable[[], bool]
FinishReason = Literal["stop", "length"]


class CancelledError(Exception):
    """Whoever asked for this computation does not want it any more."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class TokenEntry:
    """One token of a continuation as its log-probabilities are reported; `offset` counts characters of the text."""

    logprobs: TokenLogprobs
    offset: int


@dataclass(frozen=True)
class Delta:
    """What one step adds to continuation number `choice`.

    Text and entries may lag behind `token_ids`: what may still turn out to be a stop string is held back.
    """

    choice: int
    text: str
    token_ids: tuple[int, ...]
    entries: tuple[TokenEntry, ...] = ()
    finish_reason: FinishReason | None = None


class TokenCache:
    """The latents of a row of tokens and the logits [V] after the last of them."""

    def __init__(self, latents: LatentCache) -> None:
        self.latents = latents
        self.ids: list[int] = []
        self.logits_V: Tensor | None = None

    @property
    def capacity(self) -> int:
        return self.latents.max_length

    def truncate(self, length: int, logits_V: Tensor | None = None) -> None:
        """Forget the tokens from `length` on; `logits_V` are those after the last one kept, if known."""
        if length < len(self.ids):
            self.latents.truncate(length)
            del self.ids[length:]
            self.logits_V = logits_V


class InferenceEngine:
    """Computes continuations and log-probabilities. Not safe for concurrent use: one caller at a time.

    Generation ends at `stop_token_ids`, the tokenizer's end of text if there are none.
    """

    def __init__(self, model: LongcatFlash, tokenizer: EngineTokenizer, stop_token_ids: Sequence[int] = ()) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        # Rows of the embedding beyond the tokenizer's tokens are padding: they stand for no text.
        self.vocab_size = min(model.config.vocab_size, tokenizer.vocab_size)
        self.stop_token_ids = frozenset(stop_token_ids) or frozenset({tokenizer.eos_id})

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def max_length(self) -> int:
        """Tokens of prompt and continuation together."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        return self.model.output_weight.device

    def new_cache(self, capacity: int) -> TokenCache:
        """An empty cache for `capacity` tokens."""
        from longcat.model.cache import LatentCache

        dtype = self.model.output_weight.dtype
        return TokenCache(LatentCache(self.config, 1, capacity, dtype=dtype, device=self.device))

    def check_prompt(self, ids: Sequence[int], new_tokens: int = 0) -> None:
        """Whether the model can read `ids` and then write `new_tokens`.

        Raises:
            InputError: no ids, an id outside the vocabulary, or more tokens than the context holds.
        """
        if not ids:
            raise InputError("an empty prompt gives the model nothing to continue", where="prompt")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise InputError(f"token ids lie from 0 to {self.vocab_size - 1}", where="prompt")
        if len(ids) + new_tokens > self.max_length:
            raise InputError(
                f"the prompt has {len(ids)} tokens and {new_tokens} more were asked for, "
                f"together more than the context of {self.max_length} tokens",
                where="prompt",
            )

    @torch.inference_mode()
    def read(self, cache: TokenCache, ids: Sequence[int], cancelled: Cancelled = _never) -> Tensor:
        """Bring `cache` to hold exactly `ids`, reusing what they begin with in common; the logits [V] after the last.

        Raises:
            CancelledError: `cancelled` said so between two pieces.
        """
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(cache.ids, ids, strict=False)))
        cache.truncate(same)
        if same == len(ids) and cache.logits_V is not None:
            return cache.logits_V
        cache.truncate(min(same, len(ids) - 1))
        return self.append(cache, ids[len(cache.ids) :], cancelled)

    @torch.inference_mode()
    def append(self, cache: TokenCache, ids: Sequence[int], cancelled: Cancelled = _never) -> Tensor:
        """Read at least one more token into `cache`; the logits [V] after the last.

        Raises:
            CancelledError: `cancelled` said so between two pieces.
        """
        logits_V = torch.empty(0)
        for logits_TV in self._pieces(cache, ids, cancelled, logits_to_keep=1):
            logits_V = cache.logits_V = logits_TV[-1].clone()
        return logits_V

    @torch.inference_mode()
    def score(
        self, cache: TokenCache, ids: Sequence[int], top: int = 0, cancelled: Cancelled = _never
    ) -> list[TokenLogprobs]:
        """Read `ids` after what is in `cache`; the log-probability of each given all tokens before it.

        A token at the very beginning has none.

        Raises:
            CancelledError: `cancelled` said so between two pieces.
        """
        result = [TokenLogprobs(ids[0], None)]
        if cache.logits_V is not None:
            result = token_logprobs(cache.logits_V.unsqueeze(0), ids[:1], top)
        for logits_TV in self._pieces(cache, ids, cancelled):
            following = ids[len(result) : len(result) + len(logits_TV)]
            if following:
                result += token_logprobs(logits_TV[: len(following)], following, top)
            cache.logits_V = logits_TV[-1].clone()
        return result

    def _pieces(
        self, cache: TokenCache, ids: Sequence[int], cancelled: Cancelled, logits_to_keep: int | None = None
    ) -> Iterator[Tensor]:
        """Read `ids` after what is in the cache; the logits [T, V] of each piece, or of its last tokens."""
        for start in range(0, len(ids), PREFILL_TOKENS):
            if cancelled():
                raise CancelledError
            piece = list(ids[start : start + PREFILL_TOKENS])
            input_ids_BT = torch.tensor([piece], device=self.device)
            output = self.model(input_ids_BT, cache=cache.latents, logits_to_keep=logits_to_keep)
            cache.ids += piece
            yield output.logits[0, :, : self.vocab_size]

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        choices: int = 1,
        cache: TokenCache | None = None,
        cancelled: Cancelled = _never,
    ) -> Iterator[Delta]:
        """Continue a prompt `choices` times, one after the other; the last delta of each has a finish reason.

        `cache`, if given, must have room; what it already holds of the prompt is not computed again.

        Raises:
            InputError: the prompt cannot be read, see `check_prompt`.
            CancelledError: `cancelled` said so between two steps.
            LongcatError: the model gives logits that are not finite.
        """
        self.check_prompt(prompt_ids, params.max_tokens)
        cache = cache or self.new_cache(len(prompt_ids) + params.max_tokens)
        prompt_logits_V = self.read(cache, prompt_ids, cancelled)
        for choice in range(choices):
            cache.truncate(len(prompt_ids))
            yield from self._continue(cache, prompt_logits_V, params, choice, cancelled)

    def _continue(
        self, cache: TokenCache, logits_V: Tensor, params: SamplingParams, choice: int, cancelled: Cancelled
    ) -> Iterator[Delta]:
        if params.max_tokens == 0:
            yield Delta(choice, "", (), finish_reason="length")
            return
        sampler = Sampler(params, cache.ids, choice)
        row = _Continuation(self, params, choice)
        while True:
            if cancelled():
                raise CancelledError
            with torch.inference_mode():
                token = sampler(logits_V)
                delta = row.accept(token, logits_V)
            yield delta
            if delta.finish_reason is not None:
                return
            logits_V = self.append(cache, [token], cancelled)


class _Continuation:
    """What has been written of one continuation: its text, its log-probabilities, and whether it has ended."""

    def __init__(self, engine: InferenceEngine, params: SamplingParams, choice: int) -> None:
        self._params = params
        self._choice = choice
        self._stop_tokens = set(params.stop_token_ids)
        if not params.ignore_eos:
            self._stop_tokens |= engine.stop_token_ids
        self._text = TextStream(engine.tokenizer.token_bytes, params.stop)
        self._waiting: list[tuple[int, TokenEntry]] = []
        self._tokens = 0

    def accept(self, token: int, logits_V: Tensor) -> Delta:
        """Take the token that was chosen from logits [V]."""
        self._tokens += 1
        before = self._text.decoded
        at_stop_token = token in self._stop_tokens
        text = "" if at_stop_token else self._text.push(token)
        ended = at_stop_token or self._text.stopped
        finish_reason: FinishReason | None = "stop" if ended else None
        if not ended and self._tokens == self._params.max_tokens:
            finish_reason = "length"
        if finish_reason is not None:
            text += self._text.finish()
        if self._params.top_logprobs is not None:
            (logprobs,) = token_logprobs(logits_V.unsqueeze(0), [token], self._params.top_logprobs)
            self._waiting.append((self._text.decoded, TokenEntry(logprobs, before)))
        return Delta(self._choice, text, (token,), self._release(), finish_reason)

    def _release(self) -> tuple[TokenEntry, ...]:
        """Entries whose text has been shown; a token inside a stop string is never among them."""
        if self._text.stopped:
            ready = [entry for _, entry in self._waiting if entry.offset < self._text.shown]
            self._waiting.clear()
            return tuple(ready)
        count = sum(1 for _ in takewhile(lambda item: item[0] <= self._text.shown, self._waiting))
        ready = [entry for _, entry in self._waiting[:count]]
        del self._waiting[:count]
        return tuple(ready)
