"""Tokens of a batch of rows of logits, on the device of the logits.

A row's token is a function of its own logits, parameters and random number: sums are of integers, maxima do not depend
on an order, and everything else is elementwise (see `truncation`). Temperature comes first, then top-k, top-p and
min-p; the random number picks a token from what is kept, in the order of ids.

Names: R rows, G rows of one group, V vocabulary, N leading tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from longcat.pipeline.errors import InputError, LongcatError
from longcat.stages.inference.logit_terms import SampleRow, adjust
from longcat.stages.inference.random_stream import uniform
from longcat.stages.inference.sampling import SamplingParams, TokenLogprobs, token_logprobs
from longcat.stages.inference.truncation import draw, keep, leading, leading_mask, nucleus_mass, weight_bits, weights

# Most nuclei are smaller; the others are found by radix selection.
LEADING = 64
# Several vectors of a whole vocabulary fit into the caches of a CPU for one row at a time; a GPU takes more at once.
ROWS_AT_ONCE = {"cpu": 1, "cuda": 64}

# (scores [G, V], highest score [G], rows) to tokens [G]
Method = Callable[[Tensor, Tensor, Sequence[SampleRow]], Tensor]


class Sampled(NamedTuple):
    """The token of a row, its log-probabilities if asked for; or the error of this row alone."""

    token: int
    logprobs: TokenLogprobs | None = None
    error: LongcatError | None = None


class BatchSampler:
    """Chooses one token from each row of logits."""

    def __init__(self, vocab_size: int, device: torch.device | str) -> None:
        """`vocab_size` is the number of tokens with text; columns of logits beyond it are never chosen."""
        self._vocab_size = vocab_size
        self._device = torch.device(device)
        self._bits = weight_bits(vocab_size)
        self._leading = min(LEADING, vocab_size)
        self._rows_at_once = ROWS_AT_ONCE.get(self._device.type, 1)
        self._light: set[Method] = {_greedy, self._among_leading}

    @torch.inference_mode()
    def sample(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> list[Sampled]:
        """The token of each row; logits [R, at least V] of any float type are not changed.

        The errors of rows: logits that are not finite, or no token is allowed.
        """
        if not rows:
            return []
        logits_RV = logits_RV[:, : self._vocab_size].to(self._device, torch.float32)
        scores_RV = self._adjusted(logits_RV, rows)
        # Every score above minus infinity is finite if the logits are, so that the extremes tell all.
        highest_R = scores_RV.amax(-1)
        extremes = torch.stack([logits_RV.amin(-1), logits_RV.amax(-1), highest_R]).tolist()
        errors = [_error(*values) for values in zip(*extremes, strict=True)]
        tokens = self._choose(scores_RV, highest_R, rows, [error is None for error in errors])
        logprobs = _logprobs(logits_RV, rows, tokens)
        return [Sampled(tokens.get(i, 0), logprobs.get(i), error) for i, error in enumerate(errors)]

    def _adjusted(self, logits_RV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        if not any(row.adjusts for row in rows):
            return logits_RV
        scores_RV = logits_RV.clone()
        adjust(scores_RV, rows)
        return scores_RV

    def _choose(
        self, scores_RV: Tensor, highest_R: Tensor, rows: Sequence[SampleRow], sound: Sequence[bool]
    ) -> dict[int, int]:
        """Tokens of the sound rows, one group of rows after another."""
        groups: dict[Method, list[int]] = {}
        for index, row in enumerate(rows):
            if sound[index]:
                groups.setdefault(self._method(row.params), []).append(index)
        tokens: dict[int, int] = {}
        for method, members in groups.items():
            size = len(members) if method in self._light else self._rows_at_once
            for start in range(0, len(members), size):
                some = members[start : start + size]
                found_G = method(_take(scores_RV, some), _take(highest_R, some), [rows[index] for index in some])
                tokens.update(zip(some, found_G.tolist(), strict=True))
        return tokens

    def _method(self, params: SamplingParams) -> Method:
        if params.greedy:
            return _greedy
        if 0 < params.top_k <= self._leading:
            return self._among_leading
        if params.top_k:
            return self._among_kept
        return self._nucleus if params.top_p < 1 else self._among_all

    def _among_all(self, scores_GV: Tensor, highest_G: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        weights_GV = self._weights(scores_GV, highest_G, rows)
        return draw(self._above_min_p(weights_GV, rows), self._uniform(rows))

    def _among_leading(self, scores_GV: Tensor, highest_G: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        """Top-k of at most N."""
        scores_GN, ids_GN = leading(scores_GV, self._leading)
        weights_GN = self._weights(scores_GN, highest_G, rows)
        rank_N = torch.arange(self._leading, device=self._device)
        weights_GN = keep(weights_GN, rank_N < self._column(rows, lambda params: params.top_k))
        needed_G = nucleus_mass(weights_GN.sum(-1), self._column(rows, lambda params: params.top_p).squeeze(-1))
        return self._draw_leading(weights_GN, ids_GN, needed_G, rows)

    def _nucleus(self, scores_GV: Tensor, highest_G: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        """Top-p alone: from the leading tokens where they suffice."""
        weights_GV = self._weights(scores_GV, highest_G, rows)
        needed_G = nucleus_mass(weights_GV.sum(-1), self._column(rows, lambda params: params.top_p).squeeze(-1))
        scores_GN, ids_GN = leading(scores_GV, self._leading)
        weights_GN = self._weights(scores_GN, highest_G, rows)
        found_G = self._draw_leading(weights_GN, ids_GN, needed_G, rows)
        wider = (weights_GN.sum(-1) < needed_G).nonzero().flatten().tolist()
        if wider:
            more = [rows[index] for index in wider]
            found_G[wider] = self._draw_nucleus(_take(scores_GV, wider), _take(weights_GV, wider), more)
        return found_G

    def _among_kept(self, scores_GV: Tensor, highest_G: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        """Top-k of more than N, with any top-p."""
        weights_GV = self._weights(scores_GV, highest_G, rows)
        count_G1 = self._column(rows, lambda params: min(params.top_k, self._vocab_size))
        kept_GV = leading_mask(scores_GV, torch.ones_like(weights_GV), count_G1.squeeze(-1).long())
        return self._draw_nucleus(scores_GV, keep(weights_GV, kept_GV), rows)

    def _draw_nucleus(self, scores_GV: Tensor, weights_GV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        if any(row.params.top_p < 1 for row in rows):
            top_p_G1 = self._column(rows, lambda params: params.top_p)
            needed_G = nucleus_mass(weights_GV.sum(-1), top_p_G1.squeeze(-1))
            weights_GV = keep(weights_GV, leading_mask(scores_GV, weights_GV, needed_G))
        return draw(self._above_min_p(weights_GV, rows), self._uniform(rows))

    def _draw_leading(self, weights_GN: Tensor, ids_GN: Tensor, needed_G: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        before_GN = weights_GN.cumsum(-1) - weights_GN
        weights_GN = self._above_min_p(keep(weights_GN, before_GN < needed_G.unsqueeze(-1)), rows)
        # In the order of ids, like a draw from the whole vocabulary.
        ids_GN, order_GN = ids_GN.sort(dim=-1)
        index_G = draw(weights_GN.gather(-1, order_GN), self._uniform(rows))
        return ids_GN.gather(-1, index_G.unsqueeze(-1)).squeeze(-1)

    def _weights(self, scores_GV: Tensor, highest_G: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        # The least normal number: the quotient of zero and a smaller one would not be a number.
        tiny = torch.finfo(torch.float32).tiny
        temperature_G1 = self._column(rows, lambda params: max(params.temperature, tiny))
        return weights(scores_GV, highest_G, temperature_G1.squeeze(-1).float(), self._bits)

    def _above_min_p(self, weights_GN: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        """Drop tokens less than `min_p` times as likely as the most likely one (arXiv 2407.01082)."""
        if not any(row.params.min_p for row in rows):
            return weights_GN
        least_G1 = self._column(rows, lambda params: params.min_p * 2.0**self._bits)
        return keep(weights_GN, weights_GN >= least_G1)

    def _uniform(self, rows: Sequence[SampleRow]) -> Tensor:
        numbers = [uniform(row.seed, row.choice, row.position) for row in rows]
        return torch.tensor(numbers, dtype=torch.float64, device=self._device)

    def _column(self, rows: Sequence[SampleRow], value: Callable[[SamplingParams], float]) -> Tensor:
        """A parameter of each row, float64 [G, 1]."""
        return torch.tensor([[value(row.params)] for row in rows], dtype=torch.float64, device=self._device)


def _greedy(scores_GV: Tensor, highest_G: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    return scores_GV.argmax(-1)


def _take(values: Tensor, members: list[int]) -> Tensor:
    """Rows `members`, without a copy if they are consecutive."""
    if members == list(range(members[0], members[-1] + 1)):
        return values[members[0] : members[-1] + 1]
    return values[torch.tensor(members, device=values.device)]


def _error(lowest: float, highest: float, highest_adjusted: float) -> LongcatError | None:
    if not math.isfinite(lowest) or not math.isfinite(highest) or math.isnan(highest_adjusted):
        hint = "the checkpoint is damaged or has diverged"
        return LongcatError("the model returned logits that are not finite", hint=hint)
    if highest_adjusted == -math.inf:
        limits = "grammar, allowed_token_ids, logit_bias and min_tokens together"
        return InputError(f"no token is allowed by {limits}, or the text is too complex for the grammar")
    return None


def _logprobs(logits_RV: Tensor, rows: Sequence[SampleRow], tokens: dict[int, int]) -> dict[int, TokenLogprobs]:
    """Log-probabilities under the model's own distribution, of the rows that want them."""
    groups: dict[int, list[int]] = {}
    for index in tokens:
        top = rows[index].params.top_logprobs
        if top is not None:
            groups.setdefault(top, []).append(index)
    result: dict[int, TokenLogprobs] = {}
    for top, members in groups.items():
        found = token_logprobs(_take(logits_RV, members), [tokens[index] for index in members], top)
        result.update(zip(members, found, strict=True))
    return result
