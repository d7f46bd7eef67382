"""Figures of a load test, defined as in `vllm bench serve`, so that both can be compared.

- TTFT: from sending a request to the first chunk with generated text.
- E2E: from sending it to the last chunk of the answer.
- TPOT: (E2E - TTFT) / (output tokens - 1), for answers of at least two tokens.
- ITL: between consecutive chunks; a chunk may hold several tokens.

Differences: chunks without text (the role of a chat message, the end of an answer) neither start nor continue these
intervals, whereas vLLM counts every chunk with choices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from longcat.stages.bench.serve.client import Record

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Spread:
    """Mean, percentiles and extremes of a time in milliseconds."""

    mean: float
    percentiles: dict[int, float]
    maximum: float

    def to_json(self) -> dict[str, float]:
        named = {f"p{number}": value for number, value in self.percentiles.items()}
        return {"mean": self.mean, **named, "max": self.maximum}


@dataclass(frozen=True)
class Summary:
    """Results of a load test; rates are per second from the first request to the end of the last answer.

    Args:
        counted: whether the server counted all output tokens; otherwise a chunk counts as one.
        lag: how much later than due the requests were sent, the 99th percentile in milliseconds.
    """

    requests: int
    completed: int
    errors: dict[str, int]
    details: dict[str, str]
    seconds: float
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int
    counted: bool
    lag: float
    ttft: Spread | None
    tpot: Spread | None
    itl: Spread | None
    e2e: Spread | None

    @property
    def request_throughput(self) -> float:
        return self.completed / self.seconds if self.seconds else 0.0

    @property
    def output_throughput(self) -> float:
        return self.output_tokens / self.seconds if self.seconds else 0.0

    @property
    def total_throughput(self) -> float | None:
        if self.prompt_tokens is None or not self.seconds:
            return None
        return (self.prompt_tokens + self.output_tokens) / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Times in milliseconds, rates per second; null where nothing was measured."""
        spreads = {"ttft_ms": self.ttft, "tpot_ms": self.tpot, "itl_ms": self.itl, "e2e_ms": self.e2e}
        return {
            "requests": self.requests,
            "completed": self.completed,
            "errors": self.errors,
            "error_details": self.details,
            "duration_s": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "tokens_from": "usage" if self.counted else "chunks",
            "request_throughput": self.request_throughput,
            "output_throughput": self.output_throughput,
            "total_token_throughput": self.total_throughput,
            "client_lag_ms": self.lag,
            **{name: spread.to_json() if spread else None for name, spread in spreads.items()},
        }


def summarize(records: Sequence[Record], seconds: float) -> Summary:
    """Summarize the requests of a test that took `seconds`."""
    complete = [record for record in records if record.error is None]
    tokens = [tokens_of(record) for record in complete]
    longer = [(record, count) for record, count in zip(complete, tokens, strict=True) if count > 1]
    lags = [record.sent - record.planned for record in records]
    failed = [record for record in records if record.error is not None]
    return Summary(
        requests=len(records),
        completed=len(complete),
        errors=dict(sorted(Counter(str(record.error) for record in failed).items())),
        details={str(record.error): record.detail for record in reversed(failed)},
        seconds=seconds,
        prompt_tokens=_total(record.prompt_tokens for record in complete),
        cached_tokens=_total(record.cached_tokens for record in complete),
        output_tokens=sum(tokens),
        counted=all(record.output_tokens is not None for record in complete),
        lag=1000 * percentile(lags, 99) if lags else 0.0,
        ttft=_spread(record.arrivals[0] - record.sent for record in complete),
        tpot=_spread((record.ended - record.arrivals[0]) / (count - 1) for record, count in longer),
        itl=_spread(after - before for record in complete for before, after in pairwise(record.arrivals)),
        e2e=_spread(record.ended - record.sent for record in complete),
    )


def tokens_of(record: Record) -> int:
    """Output tokens; chunks where the server does not count."""
    return len(record.arrivals) if record.output_tokens is None else record.output_tokens


def percentile(values: Sequence[float], number: float) -> float:
    """Linear interpolation between the nearest ranks, as numpy's default."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * number / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


def _spread(seconds: Iterable[float]) -> Spread | None:
    values = [1000 * value for value in seconds]
    if not values:
        return None
    percentiles = {number: percentile(values, number) for number in PERCENTILES}
    return Spread(sum(values) / len(values), percentiles, max(values))


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
