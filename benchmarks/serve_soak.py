"""Sixty-four clients of `longcat serve` for minutes, a third of which leave in the middle of an answer.

Every client sends one request after the other: texts of several lengths, some with a shared beginning. The figures:
answers by status, pages of the cache still in use at the end (`/metrics`), and resident memory, the mean of the
last minute (a fifth of a shorter run) over that of the second.

    python benchmarks/serve_soak.py [--clients 64] [--seconds 300] [--preset lc-100m] [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from serve_common import Answer, Server, ask, finish, longcat_server, print_table, words, write_checkpoint

LEAVING = 1 / 3
GROWTH = 1.02
IDLE_SECONDS = 30
PROMPT_WORDS = (4, 12, 40, 80)
TOKENS = (8, 24, 48)
PAUSE_SECONDS = 0.5
SHARED = words(40, 0)


async def client(server: Server, number: int, end: float, statuses: Counter[str]) -> None:
    source = random.Random(number)
    turn = 0
    while time.monotonic() < end:
        turn += 1
        text = words(source.choice(PROMPT_WORDS), source.randrange(1 << 30))
        body = {"prompt": f"{SHARED} {text}" if turn % 4 == 0 else text, "max_tokens": source.choice(TOKENS)}
        leave_after = source.randrange(6) if source.random() < LEAVING else None
        try:
            answer = await ask(server, "/v1/completions", body, leave_after)
        except OSError as error:
            statuses[type(error).__name__] += 1
            continue
        statuses[outcome(answer)] += 1
        if answer.status == 429:
            await asyncio.sleep(PAUSE_SECONDS)


def outcome(answer: Answer) -> str:
    """Status of an answer; a stream that broke off has none of its own."""
    if answer.left:
        return "left" if answer.status == 200 else str(answer.status)
    return "broken" if answer.status == 200 and not answer.done else str(answer.status)


async def watch(process: psutil.Process, memory: list[tuple[float, int]], end: float) -> None:
    """Resident bytes once a second."""
    started = time.monotonic()
    while time.monotonic() < end:
        memory.append((time.monotonic() - started, process.memory_info().rss))
        await asyncio.sleep(1)


async def soak(server: Server, clients: int, seconds: float) -> tuple[Counter[str], list[tuple[float, int]]]:
    statuses: Counter[str] = Counter()
    memory: list[tuple[float, int]] = []
    end = time.monotonic() + seconds
    own = [client(server, number, end, statuses) for number in range(clients)]
    await asyncio.gather(watch(psutil.Process(server.process.pid), memory, end), *own)
    return statuses, memory


def metrics(server: Server) -> dict[str, float]:
    """Metrics without labels by name."""
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    pairs = (line.split() for line in lines if line and line[0] != "#" and "{" not in line)
    return {name: float(value) for name, value in pairs}


def idle(server: Server) -> dict[str, float]:
    """Metrics once no request is left, or after half a minute."""
    for _ in range(IDLE_SECONDS):
        found = metrics(server)
        if not found["longcat_requests_running"] and not found["longcat_requests_waiting"]:
            break
        time.sleep(1)
    return found


def growth(memory: list[tuple[float, int]], seconds: float) -> tuple[float, float]:
    """Mean resident bytes of the second minute and of the last one."""
    part = min(60.0, seconds / 5)
    second = [rss for moment, rss in memory if part <= moment < 2 * part]
    last = [rss for moment, rss in memory if moment >= seconds - part]
    return statistics.mean(second), statistics.mean(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        write_checkpoint(checkpoint, given.preset)
        with longcat_server(checkpoint, threads=given.threads) as server:
            statuses, memory = asyncio.run(soak(server, given.clients, given.seconds))
            at_end = idle(server)
    second, last = growth(memory, given.seconds)
    errors = {status: count for status, count in statuses.items() if status not in ("200", "left", "429")}
    used = at_end["longcat_cache_pages_used"]
    table: list[dict[str, Any]] = [
        {"what": "answers by status", "found": str(dict(sorted(statuses.items()))), "met": not errors},
        {
            "what": "pages in use at the end",
            "found": f"{used:.0f} of {at_end['longcat_cache_pages']:.0f}",
            "met": not used,
        },
        {
            "what": "memory of the last minute over the second",
            "found": f"{last / second:.4f}",
            "met": last <= GROWTH * second,
        },
    ]
    print_table(table)
    print(f"\nresident {second / 2**20:.0f} MiB in the second minute, {last / 2**20:.0f} MiB in the last")
    finish(given.output, given.threads, rows=table, statuses=statuses, memory=memory, metrics=at_end)


if __name__ == "__main__":
    main()
