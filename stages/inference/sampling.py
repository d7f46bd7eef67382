"""Sampling parameters, and log-probabilities of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longcat.pipeline.errors import InputError
from longcat.stages.inference.truncation import leading

if TYPE_CHECKING:
    from longcat.stages.inference.grammar import Grammar

MAX_SEED = 2**63 - 1
# Biases of this and less forbid a token.
BAN = -100.0


@dataclass(frozen=True)
class SamplingParams:
    """Sampling and stopping parameters of a continuation.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 keep every token; they apply in this order, after the
    temperature. `seed` None draws one from the system. A `logit_bias` of -100 forbids a token; `allowed_token_ids` None
    allows all; end tokens are forbidden before `min_tokens` tokens; `grammar` limits the text to a format.
    `repetition_penalty` (CTRL, arXiv 1909.05858) covers prompt and continuation, the presence and frequency penalties
    (OpenAI API) only the continuation. `top_logprobs` None disables log-probabilities; k gives those of the chosen
    token and of the k most likely ones, always under the model's distribution (before temperature, penalties and bias).
    `expert_counts` asks for the number of FFN experts that each token activates in each layer. `marked_tags` marks the
    tags of thoughts and tool calls in the text, see `EngineTokenizer.marked_bytes`.
    Generation also ends at the checkpoint's end tokens unless `ignore_eos`.

    Raises:
        InputError: a value is outside its range.
    """

    max_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    min_tokens: int = 0
    allowed_token_ids: Sequence[int] | None = None
    expert_counts: bool = False
    marked_tags: bool = False
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        _check("max_tokens", self.max_tokens, 0, None)
        _check("temperature", self.temperature, 0, 100)
        _check("top_p", self.top_p, 0, 1)
        _check("top_k", self.top_k, 0, None)
        _check("min_p", self.min_p, 0, 1)
        _check("min_tokens", self.min_tokens, 0, self.max_tokens)
        _check("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check("presence_penalty", self.presence_penalty, -2, 2)
        _check("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.seed is not None:
            _check("seed", self.seed, -MAX_SEED - 1, MAX_SEED)
        if self.top_logprobs is not None:
            _check("top_logprobs", self.top_logprobs, 0, None)
        for token, bias in self.logit_bias.items():
            _check("logit_bias", token, 0, None)
            _check("logit_bias", bias, -100, 100)
        if self.allowed_token_ids is not None:
            _check("allowed_token_ids", min(self.allowed_token_ids, default=-1), 0, None)
        if any(not text for text in self.stop):
            raise InputError("an empty stop string would end every text at once", where="stop")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @cached_property
    def bias_terms(self) -> tuple[tuple[int, float], ...]:
        """What is added to the logits of tokens."""
        return tuple((token, -math.inf if bias <= BAN else bias) for token, bias in self.logit_bias.items())

    @cached_property
    def allowed_array(self) -> npt.NDArray[np.int64]:
        """Distinct `allowed_token_ids`."""
        return np.unique(np.asarray(self.allowed_token_ids, dtype=np.int64))


def _check(name: str, value: float, low: float, high: float | None) -> None:
    if not low <= value <= (math.inf if high is None else high):
        upper = "" if high is None else f" and at most {high:g}"
        raise InputError(f"must be at least {low:g}{upper} (found {value})", where=name)


@dataclass(frozen=True)
class TokenLogprobs:
    """One position: log-probability (nats) of `token_id`, None for the first token, and the most likely tokens."""

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


def token_logprobs(logits_TV: Tensor, token_ids: Sequence[int], top: int) -> list[TokenLogprobs]:
    """Log-probabilities of `token_ids` [T] under logits [T, V], each with the `top` most likely tokens."""
    logits_TV = logits_TV.detach().float()
    logprobs_TV = logits_TV.log_softmax(-1)
    index = torch.tensor(list(token_ids), device=logprobs_TV.device).unsqueeze(-1)
    chosen = logprobs_TV.gather(-1, index).squeeze(-1).tolist()
    if top == 0:
        return [TokenLogprobs(token, value) for token, value in zip(token_ids, chosen, strict=True)]
    # By logits: rounded log-probabilities have more ties, and the first token should be that of greedy decoding.
    _, indices = leading(logits_TV, min(top, logits_TV.shape[-1]))
    likeliest = zip(indices.tolist(), logprobs_TV.gather(-1, indices).tolist(), strict=True)
    rows = [tuple(zip(ids, found, strict=True)) for ids, found in likeliest]
    return [TokenLogprobs(*parts) for parts in zip(token_ids, chosen, rows, strict=True)]
