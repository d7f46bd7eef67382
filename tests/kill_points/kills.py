"""A command killed at each of its calls: rerunning commands afterwards gives the state of an undisturbed run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kill_points.bench import VERIFY, Bench, Change, Command, Report, Step, problems_of
from kill_points.shim import At, Call, Traced
from kill_points.state import contents, differences, let_an_hour_pass, paths, raw, stamps

AT_ONCE = Command("artifacts verify --json")
TIDY = (Command("artifacts gc --yes"), Command("artifacts gc --yes --store {other}", (0, 4)))


@dataclass(frozen=True)
class Scenario:
    """`action` is killed at every call in the state made by `prepare`; then the user runs `recover`.

    `damaged`: the store is damaged before, so `verify` may report it until `recover` has finished.
    """

    name: str
    prepare: tuple[Step, ...]
    action: Command
    recover: tuple[Command | Change, ...]
    damaged: bool = False


@dataclass(frozen=True)
class Calm:
    """Final state of the undisturbed run, and the files that it does not touch."""

    contents: dict[str, Any]
    paths: set[str]
    untouched: dict[str, bytes]


def sweep(
    scenario: Scenario, folder: Path, chosen: Call, *, tear: bool = False, backwards: bool = False
) -> Report:  # fmt: skip
    """Kill the action at every call of the chosen classes; with `tear` after half of every write instead."""
    started = time.monotonic()
    bench, report = Bench(folder, backwards=backwards), Report(scenario.name)
    failed = bench.take(scenario.prepare)
    if failed:
        raise AssertionError(f"{scenario.name}: cannot be prepared: {failed}")
    bench.save("pristine")
    calls = [call for call in bench.trace(scenario.action) if call.kind & chosen]
    calm = _calm(bench, scenario)
    for number in _numbers(calls, tear=tear):
        bench.restore("pristine")
        ended = bench.start(scenario.action, chosen, At.TEAR if tear else At.KILL, number).wait()
        report.points += 1
        if not bench.points.hit:
            report.missed += 1
        elif ended.code is not None:
            raise AssertionError(f"call {number} did not kill the process")
        wrong = _aftermath(bench, scenario, calm)
        if wrong:
            report.problems.append({"number": number, "call": str(calls[number]), "wrong": wrong})
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _numbers(calls: list[Traced], *, tear: bool) -> Iterable[int]:
    return [number for number, call in enumerate(calls) if not tear or call.name in ("write", "pwrite", "pwrite64")]


def _calm(bench: Bench, scenario: Scenario) -> Calm:
    before = stamps(bench.stores)
    failed = problems_of(scenario.action, bench.run(scenario.action)) + bench.take(scenario.recover)
    failed += problems_of(VERIFY, bench.run(VERIFY))
    after, stamp = raw(bench.stores), stamps(bench.stores)
    end = contents(bench.stores)
    failed += bench.differences_from_fresh(end)
    failed += bench.together(TIDY)
    if failed:
        raise AssertionError(f"{scenario.name}: the undisturbed run fails: {failed}")
    untouched = {name: data for name, data in after.items() if before.get(name) == stamp.get(name)}
    return Calm(end, paths(bench.stores), untouched)


def _aftermath(bench: Bench, scenario: Scenario, calm: Calm) -> list[str]:
    check = () if scenario.damaged or not bench.store.exists() else (AT_ONCE,)
    wrong = bench.together((*check, *scenario.recover, VERIFY))
    wrong += differences(calm.contents, contents(bench.stores))
    found = raw(bench.stores)
    wrong += [f"touched: {name}" for name, data in calm.untouched.items() if found.get(name) != data]
    let_an_hour_pass(bench.stores)
    wrong += bench.together(TIDY)
    lying = paths(bench.stores)
    wrong += [f"left over: {name}" for name in sorted(lying - calm.paths)]
    wrong += [f"not there: {name}" for name in sorted(calm.paths - lying)]
    return wrong
