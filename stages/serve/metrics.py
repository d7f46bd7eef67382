"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from longcat.stages.inference.snapshot import Monitored

LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Field of `EngineSnapshot`, and its help.
GAUGES = {
    "longcat_requests_waiting": ("waiting", "Requests in the queue."),
    "longcat_requests_running": ("running", "Requests being decoded."),
    "longcat_cache_pages": ("pages", "Pages of the cache."),
    "longcat_cache_pages_used": ("pages_used", "Pages that hold tokens of running requests."),
    "longcat_offload_resident_bytes": ("resident_bytes", "Bytes of the fast tier of an offloaded cache."),
}
COUNTERS = {
    "longcat_prefix_queried_tokens": ("queried_tokens", "Prompt tokens looked up in the prefix cache."),
    "longcat_prefix_hit_tokens": ("hit_tokens", "Prompt tokens found in the prefix cache."),
    "longcat_preemptions": ("preemptions", "Sequences that gave up their pages for others."),
    "longcat_offload_chosen_blocks": ("chosen_blocks", "Blocks that tokens chose for the next one."),
    "longcat_offload_missing_blocks": ("missing_blocks", "Chosen blocks that were not in the fast tier."),
    "longcat_offload_moved_bytes": ("moved_bytes", "Bytes copied to the fast tier."),
    "longcat_offload_recall_sum": ("recall_sum", "Sum of the measured recalls of attention mass."),
    "longcat_offload_recall_count": ("recall_count", "Measured recalls of attention mass."),
}
BY_POSITION = {
    "longcat_draft_tokens": ("drafted", "Drafted tokens, by position after the last certain one."),
    "longcat_draft_accepted_tokens": ("accepted", "Drafted tokens that were accepted, by position."),
}


class ServerMetrics:
    """Counters, gauges and histograms of one server; names follow the Prometheus conventions."""

    def __init__(self, engine: Monitored) -> None:
        disable_created_metrics()  # otherwise each counter has a second series with its creation time
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(engine))
        self.requests = self._counter(
            "longcat_http_requests_total", "Answered requests by route and status.", "route", "status"
        )
        self.prompt_tokens = self._counter("longcat_prompt_tokens_total", "Prompt tokens processed.")
        self.generated_tokens = self._counter("longcat_generated_tokens_total", "Tokens generated.")
        self.cancelled = self._counter("longcat_requests_cancelled_total", "Requests cancelled by their clients.")
        self.request_seconds = self._seconds(
            "longcat_request_seconds", "Time from the arrival of a request to its last byte.", LATENCY_BUCKETS
        )
        self.first_token_seconds = self._seconds(
            "longcat_first_token_seconds", "Time from submission to the first token.", LATENCY_BUCKETS
        )
        self.token_seconds = self._seconds(
            "longcat_token_seconds", "Time per token after the first, mean of a request.", TOKEN_BUCKETS
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self._registry)

    def _seconds(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, help_text, buckets=buckets, registry=self._registry)

    def render(self) -> bytes:
        """Render all metrics in the text format, version 0.0.4."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """The engine's own counts, read once for each scrape."""

    def __init__(self, engine: Monitored) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        snapshot = self._engine.snapshot()
        for name, (field, text) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=getattr(snapshot, field))
        for name, (field, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(snapshot, field))
        for name, (field, text) in BY_POSITION.items():
            family = CounterMetricFamily(name, text, labels=["position"])
            for position, count in enumerate(getattr(snapshot, field)):
                family.add_metric([str(position)], count)
            yield family
