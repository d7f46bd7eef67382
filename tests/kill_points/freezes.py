"""Concurrent commands: one is stopped at a chosen call, the other runs until it exits, then the first continues.

If the other waits for a lock held by the stopped one, the first continues at that time.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_points.bench import VERIFY, Bench, Command, Report, Step, problems_of
from kill_points.forks import Ended
from kill_points.shim import At, Call, Points
from kill_points.state import contents, differences

FIRST_THEN_SECOND, SECOND_THEN_FIRST = (0, 1), (1, 0)


@dataclass(frozen=True)
class Meeting:
    """`first` is stopped, in the state made by `prepare`, while `second` runs; then `afterwards` runs.

    The final store must equal the result of one of the sequential `orders`. Stops are at calls that match `at`.
    """

    name: str
    prepare: tuple[Step, ...]
    first: Command
    second: Command
    afterwards: tuple[Command, ...] = ()
    orders: tuple[tuple[int, int], ...] = (FIRST_THEN_SECOND, SECOND_THEN_FIRST)
    at: str = ""


def meet(meeting: Meeting, folder: Path, chosen: Call) -> Report:
    """Run the meeting with a stop at every call of the chosen classes."""
    started = time.monotonic()
    bench, report = Bench(folder), Report(meeting.name)
    failed = bench.take(meeting.prepare)
    if failed:
        raise AssertionError(f"{meeting.name}: cannot be prepared: {failed}")
    bench.save("pristine")
    calls = [call for call in bench.trace(meeting.first) if call.kind & chosen]
    ends = [_in_turn(bench, meeting, order) for order in meeting.orders]
    for number in [number for number, call in enumerate(calls) if re.search(meeting.at, str(call))]:
        bench.restore("pristine")
        report.points += 1
        met, wrong = _meet_at(bench, meeting, chosen, number)
        report.missed += not met
        wrong += bench.together((*meeting.afterwards, VERIFY))
        found = contents(bench.stores)
        if found not in ends:
            wrong += [f"differs from all sequential orders: {line}" for line in differences(ends[0], found)]
        if wrong:
            report.problems.append({"number": number, "call": str(calls[number]), "wrong": wrong})
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _in_turn(bench: Bench, meeting: Meeting, order: tuple[int, int]) -> dict[str, Any]:
    bench.restore("pristine")
    commands = (meeting.first, meeting.second)
    ended = {place: bench.run(commands[place]) for place in order}
    failed = [line for place in order for line in problems_of(commands[place], ended[place])]
    failed += bench.together((*meeting.afterwards, VERIFY))
    end = contents(bench.stores)
    failed += bench.differences_from_fresh(end)
    if failed:
        raise AssertionError(f"{meeting.name}, sequentially: {failed}")
    return end


def _meet_at(bench: Bench, meeting: Meeting, chosen: Call, number: int) -> tuple[bool, list[str]]:
    """Whether the first was stopped, and problems of both exits."""
    fork = bench.start(meeting.first, chosen, At.STOP, number)
    first = fork.wait_until_stopped()
    if first is not None:
        second = bench.run(meeting.second)
        return False, _complaints(meeting, first, second)
    waiting = Points(1)
    other = bench.start(meeting.second, slot=1)
    try:
        second = other.wait_or(lambda: waiting.blocked > 0)
        fork.resume()
        first = fork.wait_or(lambda: False)
        second = second or other.wait_or(lambda: False)
    except TimeoutError as error:
        return True, [f"deadlock: {error}"]
    finally:
        fork.end()
        other.end()
    if first is None or second is None:
        raise AssertionError("a wait without a condition returned without a result")
    return True, _complaints(meeting, first, second)


def _complaints(meeting: Meeting, first: Ended, second: Ended) -> list[str]:
    return problems_of(meeting.first, first) + problems_of(meeting.second, second)
