"""Two commands at once: one is stopped at a chosen call, the other runs to its end, then the first goes on.

Where the other waits for a lock that the stopped one holds, the first goes on at that moment.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_points.bench import VERIFY, Bench, Command, Report, Step, complaints
from kill_points.forks import Ended
from kill_points.shim import At, Call, Points
from kill_points.state import contents, differences

FIRST_THEN_SECOND, SECOND_THEN_FIRST = (0, 1), (1, 0)


@dataclass(frozen=True)
class Meeting:
    """`first` is stopped, in the state that `prepare` leaves, while `second` runs; `afterwards` is typed then.

    The store ends as one of `orders` would have left it, in which one runs after the other. Stops are at calls that
    match `at`.
    """

    name: str
    prepare: tuple[Step, ...]
    first: Command
    second: Command
    afterwards: tuple[Command, ...] = ()
    orders: tuple[tuple[int, int], ...] = (FIRST_THEN_SECOND, SECOND_THEN_FIRST)
    at: str = ""


def meet(meeting: Meeting, folder: Path, chosen: Call) -> Report:
    """Let the two meet at every call of the chosen classes."""
    started = time.monotonic()
    bench, report = Bench(folder), Report(meeting.name)
    failed = bench.take(meeting.prepare)
    if failed:
        raise AssertionError(f"{meeting.name}: cannot be prepared: {failed}")
    bench.save("pristine")
    calls = [call for call in bench.trace(meeting.first) if call.kind & chosen]
    ends = [_in_turn(bench, meeting, order) for order in meeting.orders]
    for number in [number for number, call in enumerate(calls) if re.search(meeting.at, str(call))]:
        bench.bring_back("pristine")
        report.points += 1
        met, wrong = _meet_at(bench, meeting, chosen, number)
        report.missed += not met
        wrong += bench.together((*meeting.afterwards, VERIFY))
        found = contents(bench.stores)
        if found not in ends:
            wrong += [f"unlike one after the other: {line}" for line in differences(ends[0], found)]
        if wrong:
            report.problems.append({"number": number, "call": str(calls[number]), "wrong": wrong})
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _in_turn(bench: Bench, meeting: Meeting, order: tuple[int, int]) -> dict[str, Any]:
    bench.bring_back("pristine")
    commands = (meeting.first, meeting.second)
    ended = {place: bench.run(commands[place]) for place in order}
    failed = [line for place in order for line in complaints(commands[place], ended[place])]
    failed += bench.together((*meeting.afterwards, VERIFY))
    end = contents(bench.stores)
    failed += bench.unlike_fresh(end)
    if failed:
        raise AssertionError(f"{meeting.name}, one after the other: {failed}")
    return end


def _meet_at(bench: Bench, meeting: Meeting, chosen: Call, number: int) -> tuple[bool, list[str]]:
    """Whether the first was stopped, and what was wrong with how the two ended."""
    fork = bench.start(meeting.first, chosen, At.STOP, number)
    first = fork.wait_until_stopped()
    if first is not None:
        second = bench.run(meeting.second)
        return False, _complaints(meeting, first, second)
    waiting = Points(1)
    other = bench.start(meeting.second, slot=1)
    try:
        second = other.wait_or(lambda: waiting.blocked > 0)
        fork.go_on()
        first = fork.wait_or(lambda: False)
        second = second or other.wait_or(lambda: False)
    except TimeoutError as error:
        return True, [f"both wait: {error}"]
    finally:
        fork.end()
        other.end()
    if first is None or second is None:
        raise AssertionError("a wait without a condition ended without an end")
    return True, _complaints(meeting, first, second)


def _complaints(meeting: Meeting, first: Ended, second: Ended) -> list[str]:
    return complaints(meeting.first, first) + complaints(meeting.second, second)
