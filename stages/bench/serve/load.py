"""Open and closed loops of requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from longcat.stages.bench.serve.arrivals import poisson
from longcat.stages.bench.serve.client import Client, Record
from longcat.stages.bench.serve.options import LoadOptions
from longcat.stages.bench.serve.prompts import Prompt

DEFAULT_REQUESTS = 100
Done = Callable[[Record], None]


def number_of_requests(options: LoadOptions) -> int | None:
    """Number of requests; None if only time limits it."""
    if options.requests is None and options.duration is not None:
        return None
    return options.requests or DEFAULT_REQUESTS


async def open_loop(client: Client, rate: float, prompts: Iterator[Prompt], done: Done) -> list[Record]:
    """Send each request when it is due, whatever has become of those before."""
    options = client.options
    duration = float("inf") if options.duration is None else options.duration
    number = number_of_requests(options) or round(rate * duration) or 1
    due = [moment for moment in poisson(rate, number, options.seed) if moment <= duration]
    bodies = [client.body(next(prompts), options.output_tokens) for _ in due]
    start = time.perf_counter()

    async def one(moment: float, body: dict[str, object]) -> Record:
        await asyncio.sleep(start + moment - time.perf_counter())
        record = await client.send(body, start + moment)
        done(record)
        return record

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(*pair)) for pair in zip(due, bodies, strict=True)]
    return [task.result() for task in tasks]


async def closed_loop(client: Client, prompts: Iterator[Prompt], done: Done) -> list[Record]:
    """As many clients as `concurrency`; each sends its next request when its last one is answered."""
    options = client.options
    number = number_of_requests(options)
    start = time.perf_counter()
    records: list[Record] = []
    sent = 0

    def goes_on() -> bool:
        in_time = options.duration is None or time.perf_counter() < start + options.duration
        return in_time and (number is None or sent < number)

    async def one_client() -> None:
        nonlocal sent
        while goes_on():
            sent += 1
            record = await client.send(client.body(next(prompts), options.output_tokens), time.perf_counter())
            records.append(record)
            done(record)
            if record.error == "connection":
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(options.concurrency):
            group.create_task(one_client())
    return records
