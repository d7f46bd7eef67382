"""From logits to the next token: greedy or seeded sampling, penalties, and log-probabilities."""

from __future__ import annotations

import math
import random
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from longcat.pipeline.errors import InputError, LongcatError

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplingParams:
    """How a continuation is chosen and when it ends.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep every token. `seed` None draws one from the system.
    `repetition_penalty` (CTRL, arXiv 1909.05858) looks at prompt and continuation, the presence and frequency
    penalties (OpenAI API) at the continuation alone. `top_logprobs` None asks for no log-probabilities, k for those
    of the chosen token and of the k likeliest ones, always under the model's own distribution (before temperature,
    penalties and bias). Generation also ends at the checkpoint's own end tokens unless `ignore_eos`.

    Raises:
        InputError: a value lies outside its range.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        _check("max_tokens", self.max_tokens, 0, None)
        _check("temperature", self.temperature, 0, 100)
        _check("top_p", self.top_p, 0, 1)
        _check("top_k", self.top_k, 0, None)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.seed is not None:
            _check("seed", self.seed, -MAX_SEED - 1, MAX_SEED)
        if any(not text for text in self.stop):
            raise InputError("an empty stop string would end every text at once", where="stop")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _check(name: str, value: float, low: float, high: float | None) -> None:
    if not low <= value <= (math.inf if high is None else high):
        upper = "" if high is None else f" and at most {high:g}"
        raise InputError(f"must be at least {low:g}{upper} (found {value})", where=name)


@dataclass(frozen=True)
class TokenLogprobs:
    """One position: log-probability (nats) of `token_id`, None where nothing stands before it, and the likeliest."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one continuation.

    `choice` numbers the continuations of one request, so that each has its own stream of random numbers.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int], choice: int = 0) -> None:
        self.params = params
        self._seen = set(prompt_ids) if params.repetition_penalty != 1 else set()
        self._counts: Counter[int] = Counter()
        seed = secrets.randbits(63) if params.seed is None else params.seed
        # Seeding with text goes through sha512, which is the same on every platform and version.
        self._random = random.Random(f"{seed}:{choice}")

    def __call__(self, logits_V: Tensor) -> int:
        """The next token after logits [V].

        Raises:
            LongcatError: the logits hold NaN or infinity.
        """
        scores_V = logits_V.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(scores_V).all()):
            raise LongcatError(
                "the model gives logits that are not finite", hint="the checkpoint is damaged or has diverged"
            )
        scores_V = self._adjust(scores_V)
        token = int(scores_V.argmax()) if self.params.greedy else self._draw(scores_V / self.params.temperature)
        self._counts[token] += 1
        if self.params.repetition_penalty != 1:
            self._seen.add(token)
        return token

    def _adjust(self, scores_V: Tensor) -> Tensor:
        params = self.params
        scores_V = scores_V.clone()
        if self._seen:
            index = torch.tensor(sorted(self._seen))
            seen = scores_V[index]
            scores_V[index] = torch.where(seen > 0, seen / params.repetition_penalty, seen * params.repetition_penalty)
        if self._counts and (params.presence_penalty or params.frequency_penalty):
            index = torch.tensor(list(self._counts))
            count = torch.tensor(list(self._counts.values()), dtype=scores_V.dtype)
            scores_V[index] -= params.presence_penalty + params.frequency_penalty * count
        for token, bias in params.logit_bias.items():
            scores_V[token] += bias
        return scores_V

    def _draw(self, scores_V: Tensor) -> int:
        """Inverse transform sampling over the kept tokens, likeliest first."""
        params = self.params
        if params.top_k == 0 and params.top_p == 1:
            return self._invert(scores_V.softmax(-1))
        kept, order = scores_V.sort(descending=True, stable=True)
        if params.top_k:
            kept = kept[: params.top_k]
        probabilities = kept.softmax(-1)
        if params.top_p < 1:
            # The smallest set of likeliest tokens whose mass reaches top_p (nucleus sampling, arXiv 1904.09751).
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities[: max(1, int((before < params.top_p).sum()))]
        return int(order[self._invert(probabilities)])

    def _invert(self, probabilities: Tensor) -> int:
        cumulative = probabilities.cumsum(-1)
        target = self._random.random() * float(cumulative[-1])
        index = int(torch.searchsorted(cumulative, torch.tensor(target, dtype=cumulative.dtype), right=True))
        return min(index, cumulative.numel() - 1)


def token_logprobs(logits_TV: Tensor, token_ids: Sequence[int], top: int) -> list[TokenLogprobs]:
    """Log-probabilities of `token_ids` [T] under logits [T, V], each with the `top` likeliest of its position."""
    logprobs_TV = logits_TV.detach().float().log_softmax(-1)
    index = torch.tensor(list(token_ids), device=logprobs_TV.device).unsqueeze(-1)
    chosen = logprobs_TV.gather(-1, index).squeeze(-1).tolist()
    if top == 0:
        return [TokenLogprobs(token, value) for token, value in zip(token_ids, chosen, strict=True)]
    values, indices = logprobs_TV.topk(min(top, logprobs_TV.shape[-1]), dim=-1)
    likeliest = zip(indices.tolist(), values.tolist(), strict=True)
    rows = [tuple(zip(ids, found, strict=True)) for ids, found in likeliest]
    return [TokenLogprobs(*parts) for parts in zip(token_ids, chosen, rows, strict=True)]
