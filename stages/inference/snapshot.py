"""What an engine tells about itself, for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class EngineSnapshot:
    """Counts at one moment: jobs, pages of the cache, and totals since the start.

    `hit_tokens` of `queried_tokens` prompt tokens were in the prefix cache. `drafted` and `accepted` count draft tokens
    by position: the first draft of a step, the second and so on. The last fields are of an offloaded cache
    (`model.attention.offload.stats`).
    """

    waiting: int = 0
    running: int = 0
    pages: int = 0
    pages_used: int = 0
    queried_tokens: int = 0
    hit_tokens: int = 0
    preemptions: int = 0
    drafted: tuple[int, ...] = ()
    accepted: tuple[int, ...] = ()
    resident_bytes: int = 0
    chosen_blocks: int = 0
    missing_blocks: int = 0
    moved_bytes: int = 0
    recall_sum: float = 0.0
    recall_count: int = 0


class Monitored(Protocol):
    """An engine that can be monitored; `snapshot` may be called from any thread."""

    def snapshot(self) -> EngineSnapshot:
        """Counts now."""
