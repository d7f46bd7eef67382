"""Counters, gauges and histograms in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[str, ...]


class Counter:
    """A sum that only grows, one for each set of label values."""

    kind = "counter"

    def __init__(self, labels: Labels = ()) -> None:
        self.labels = labels
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, amount: float = 1, *values: str) -> None:
        """Add to the sum of these label values, which must come from a bounded set."""
        with self._lock:
            self._values[values] = self._values.get(values, 0.0) + amount

    def lines(self, name: str) -> list[str]:
        with self._lock:
            items = sorted(self._values.items())
        return [f"{name}{_labels(self.labels, values)} {_number(value)}" for values, value in items]


class Gauge:
    """A value read at the moment of scraping."""

    kind = "gauge"

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read

    def lines(self, name: str) -> list[str]:
        return [f"{name} {_number(self._read())}"]


class Histogram:
    """Observations counted by upper bound."""

    kind = "histogram"

    def __init__(self, buckets: Sequence[float] = LATENCY_BUCKETS) -> None:
        self._bounds = tuple(buckets)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Take one observation, in the unit of the bounds."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self, name: str) -> list[str]:
        with self._lock:
            counts, total = list(self._counts), self._sum
        result, running = [], 0
        for bound, count in zip([*map(_number, self._bounds), "+Inf"], counts, strict=True):
            running += count
            result.append(f'{name}_bucket{{le="{bound}"}} {running}')
        return [*result, f"{name}_sum {_number(total)}", f"{name}_count {running}"]


Metric = Counter | Gauge | Histogram


class ServerMetrics:
    """What the server measures; names follow the Prometheus conventions."""

    def __init__(self) -> None:
        self.requests = Counter(("route", "status"))
        self.prompt_tokens = Counter()
        self.generated_tokens = Counter()
        self.cancelled = Counter()
        self.request_seconds = Histogram()
        self.first_token_seconds = Histogram()
        self._metrics: list[tuple[str, str, Metric]] = [
            ("longcat_http_requests_total", "Answered requests by route and status.", self.requests),
            ("longcat_prompt_tokens_total", "Tokens of prompts that were read.", self.prompt_tokens),
            ("longcat_generated_tokens_total", "Tokens that were generated.", self.generated_tokens),
            ("longcat_requests_cancelled_total", "Requests given up by their clients.", self.cancelled),
            ("longcat_request_seconds", "From the arrival of a request to its last byte.", self.request_seconds),
            ("longcat_first_token_seconds", "From submission to the first token.", self.first_token_seconds),
        ]

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Add a gauge."""
        self._metrics.append((name, help_text, Gauge(read)))

    def render(self) -> str:
        """The whole page."""
        lines: list[str] = []
        for name, help_text, metric in self._metrics:
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {metric.kind}", *metric.lines(name)]
        return "\n".join(lines) + "\n"


def _labels(names: Labels, values: Labels) -> str:
    pairs = ",".join(f'{name}="{value}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
