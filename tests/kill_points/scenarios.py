"""Commands that are killed at every call, and the commands run afterwards."""

from __future__ import annotations

import gc
import importlib
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from kill_points.bench import CARELESS, EXTRACT, TOYS, UNNAMED, Bench, Change, Command, Killed, damage, truncate
from kill_points.forks import Fork
from kill_points.kills import Scenario

COLLECT = Command("artifacts gc --yes")
COLLECT_NOW = Command("artifacts gc --yes --now --unfinished")
COLLECT_EXPIRED = Command("artifacts gc --yes --grace 0")
COLLECT_UNFINISHED = Command("artifacts gc --yes --unfinished")
DROP_DAMAGED = Command("artifacts gc --damaged --yes")
REPAIR = Command("artifacts fsck --repair")
REMOVE_PAGES = Command("artifacts remove pages", codes=(0, 4))
RESTORE_PAGES = Command("artifacts restore {id_pages}", codes=(0, 4))
RESTORE_UNNAMED = Command("artifacts restore {id_unnamed}")
PIN = Command("artifacts pin pages --why kept")
PUBLISHED = r"rename /store/\.staging/\w+/output /"
SECOND_RECORD_OF_PAGES = Killed(EXTRACT, "rename .*work/shards", 1)


def _repaired(name: str, again: Command) -> tuple[Command | Change, ...]:
    """Damage, repair by our command, and the command again: leftovers of a kill must not reappear."""
    return (damage(name), DROP_DAMAGED, again)


def _publish() -> tuple[Scenario, ...]:
    return (
        Scenario("publish-toys", (EXTRACT,), TOYS, (TOYS, *_repaired("first", TOYS))),
        Scenario("publish-extract", (TOYS,), EXTRACT, (EXTRACT, *_repaired("pages", EXTRACT))),
        # Killed after publication, before its progress is deleted; then killed again, at every call.
        Scenario("discard", (TOYS, Killed(EXTRACT, PUBLISHED)), EXTRACT, (EXTRACT, *_repaired("pages", EXTRACT))),
        Scenario("resume", (TOYS, SECOND_RECORD_OF_PAGES), EXTRACT, (EXTRACT, *_repaired("pages", EXTRACT))),
        Scenario("take-back", (TOYS, EXTRACT, REMOVE_PAGES), EXTRACT, (EXTRACT, *_repaired("pages", EXTRACT))),
    )


def _collect() -> tuple[Scenario, ...]:
    lying = (TOYS, UNNAMED, SECOND_RECORD_OF_PAGES)
    return (
        Scenario("gc", lying, COLLECT_UNFINISHED, (UNNAMED, EXTRACT)),
        Scenario("gc-again", lying, COLLECT_UNFINISHED, (COLLECT_UNFINISHED, UNNAMED, EXTRACT)),
        Scenario("gc-now", lying, COLLECT_NOW, (UNNAMED, EXTRACT)),
        Scenario("gc-expired", (*lying, COLLECT_UNFINISHED), COLLECT_EXPIRED, (COLLECT_EXPIRED, UNNAMED, EXTRACT)),
        Scenario("gc-leftover", (TOYS, Killed(EXTRACT, PUBLISHED)), COLLECT, (EXTRACT, *_repaired("pages", EXTRACT))),
    )


def _repair() -> tuple[Scenario, ...]:
    return (
        Scenario("gc-damaged", (TOYS, EXTRACT, damage("first")), DROP_DAMAGED, (DROP_DAMAGED, TOYS), damaged=True),
        Scenario(
            "fsck",
            (TOYS, EXTRACT, truncate("refs/pages.json"), truncate("documents/{id_second}/manifest.json")),
            REPAIR,
            (REPAIR,),
            damaged=True,
        ),
    )


def _by_hand() -> tuple[Scenario, ...]:
    return (
        Scenario("remove", (TOYS, EXTRACT), REMOVE_PAGES, (REMOVE_PAGES, EXTRACT)),
        Scenario("restore", (TOYS, EXTRACT, REMOVE_PAGES), RESTORE_PAGES, (RESTORE_PAGES, EXTRACT)),
        Scenario("rename", (TOYS, EXTRACT), Command("artifacts rename pages leaves", (0, 4)), (
            Command("artifacts rename pages leaves", (0, 4)),)),
        Scenario("pin", (TOYS, EXTRACT), PIN, (PIN,)),
        Scenario("unpin", (TOYS, EXTRACT, Command("artifacts pin pages")), Command("artifacts unpin pages", (0, 4)),
            (Command("artifacts unpin pages", (0, 4)),)),
        Scenario("copy", (TOYS, EXTRACT), Command("artifacts copy second {other} --with-inputs"), (
            Command("artifacts copy second {other} --with-inputs"),)),
    )  # fmt: skip


def scenarios() -> dict[str, Scenario]:
    """All scenarios by name."""
    careless = Scenario("careless", (), CARELESS, (CARELESS,))
    return {scenario.name: scenario for scenario in (*_publish(), *_collect(), *_repair(), *_by_hand(), careless)}


def import_everything(folder: Path) -> None:
    """Import all modules used by the commands in this process, so that forks need not import them."""
    reading = folder / "modules.json"

    def work() -> int:
        importlib.import_module("kill_points.toy")
        from longcat.cli.app import run

        bench = Bench(folder / "imports")
        bench.store.mkdir()
        codes = [run(bench.fill(command)) for command in (COLLECT, DROP_DAMAGED)]
        reading.write_text(json.dumps([*sys.modules]))
        return max(codes)

    ended = Fork(work).wait()
    shutil.rmtree(folder / "imports", ignore_errors=True)
    if ended.code != 0:
        raise AssertionError(ended.text)
    for name in json.loads(reading.read_text()):
        with suppress(ImportError):
            importlib.import_module(name)
    _build_once()
    gc.freeze()  # forks must not touch objects of the parent, which would copy its memory


def _build_once() -> None:
    """Build data that is equal for all commands and slower to build than most of them."""
    from longcat.cli.app import command
    from longcat.pipeline import lock
    from longcat.pipeline.environment import code_version, environment

    for make in (command, code_version, environment):
        make()
    lock.POLL_SECONDS = 0.002
