"""Which commands meet, and in which state of the store."""

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
    """All of them by name."""
    return {meeting.name: meeting for meeting in (*_at_every_call(), *_at_one_moment())}


def _at_one_moment() -> tuple[Meeting, ...]:
    """Where the one that was stopped has come so far that the other must leave it alone."""
    one = (FIRST_THEN_SECOND,)
    return (
        # In its place, and neither has its progress been dropped nor its name been given.
        Meeting("published-gc", (TOYS,), EXTRACT, COLLECT_NOW, orders=one, at=PUBLISHED),
        # At work on an artifact that only its id leads to.
        Meeting("reading-gc", (TOYS, UNNAMED), READ_UNNAMED, COLLECT_NOW, orders=one, at=r"\.staging/\w{16}/"),
    )


def _at_every_call() -> tuple[Meeting, ...]:
    read, restore = replace(READ_UNNAMED, codes=(0, 4)), replace(RESTORE_PAGES, codes=(0, 1, 4))
    # Whatever came first, it can be read when it is taken back.
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
