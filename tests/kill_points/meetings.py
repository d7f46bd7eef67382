"""Pairs of concurrent commands, and the states of the store in which they run."""

from __future__ import annotations

from dataclasses import replace

from kill_points.bench import EXTRACT, READ_UNNAMED, TOYS, UNNAMED
from kill_points.freezes import FIRST_THEN_SECOND, Meeting
from kill_points.scenarios import (
    COLLECT,
    COLLECT_NOW,
    COLLECT_UNFINISHED,
    DROP_DAMAGED,
    REMOVE_PAGES,
    RESTORE_PAGES,
    RESTORE_UNNAMED,
    SECOND_RECORD_OF_PAGES,
)

PUBLISHED = r"\.trash/\.purge-|refs/\.pages|locks/\.gc"


def meetings() -> dict[str, Meeting]:
    """All meetings by name."""
    return {meeting.name: meeting for meeting in (*_at_every_call(), *_at_one_moment())}


def _at_one_moment() -> tuple[Meeting, ...]:
    """Stops after which the other command must not touch the data of the stopped one."""
    one = (FIRST_THEN_SECOND,)
    return (
        # Published, but its progress is not deleted and its name not set yet.
        Meeting("published-gc", (TOYS,), EXTRACT, COLLECT_NOW, orders=one, at=PUBLISHED),
        # Working on an artifact that is only referenced by its id.
        Meeting("reading-gc", (TOYS, UNNAMED), READ_UNNAMED, COLLECT_NOW, orders=one, at=r"\.staging/\w{16}/"),
    )


def _at_every_call() -> tuple[Meeting, ...]:
    read, restore = replace(READ_UNNAMED, codes=(0, 4)), replace(RESTORE_PAGES, codes=(0, 1, 4))
    # Whichever came first, the artifact is readable after it is restored.
    read_again = (replace(RESTORE_UNNAMED, codes=(0, 4)), READ_UNNAMED)
    return (
        Meeting("publish-gc", (TOYS,), EXTRACT, COLLECT),
        Meeting("publish-gc-now", (TOYS,), EXTRACT, COLLECT_NOW, (EXTRACT,)),
        Meeting("resume-gc", (TOYS, SECOND_RECORD_OF_PAGES), EXTRACT, COLLECT_UNFINISHED, (EXTRACT,)),
        Meeting("resume-gc-now", (TOYS, SECOND_RECORD_OF_PAGES), EXTRACT, COLLECT_NOW, (EXTRACT,)),
        Meeting("gc-resume", (TOYS, UNNAMED, SECOND_RECORD_OF_PAGES), COLLECT_UNFINISHED, EXTRACT, (COLLECT,)),
        Meeting("gc-now-resume", (TOYS, UNNAMED, SECOND_RECORD_OF_PAGES), COLLECT_NOW, EXTRACT, (COLLECT,)),
        Meeting("read-gc", (TOYS, UNNAMED), read, COLLECT, read_again),
        Meeting("gc-read", (TOYS, UNNAMED), COLLECT, read, read_again),
        Meeting("same-twice", (TOYS,), EXTRACT, EXTRACT),
        Meeting("gc-twice", (TOYS, UNNAMED, SECOND_RECORD_OF_PAGES), COLLECT_UNFINISHED, COLLECT_NOW),
        Meeting("publish-remove", (TOYS, EXTRACT), EXTRACT, REMOVE_PAGES, (EXTRACT,)),
        Meeting(
            "restore-publish",
            (TOYS, EXTRACT, REMOVE_PAGES),
            restore,
            EXTRACT,
            (EXTRACT,),
        ),
        Meeting("publish-damaged", (TOYS,), EXTRACT, DROP_DAMAGED),
    )
