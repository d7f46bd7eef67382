"""What the phases of an extension will do, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from longcat.stages.extend.config import ExtendConfig
from longcat.stages.train.joins.outlook import Outlook
from longcat.stages.train.joins.schedule import JoinedSchedule

if TYPE_CHECKING:
    from longcat.stages.train.joins.data import JoinedData


def outlooks(
    config: ExtendConfig,
    joined: JoinedSchedule | None,
    data: Sequence[JoinedData | None],
    problem: str | None = None,
) -> list[Outlook]:
    """One a phase: its part of the schedule of all phases, and its data, or the problem of one of them."""
    found, done = [], 0
    for phase, own in zip(config.phases_left, data, strict=True):
        steps = phase.step_count
        part = None if joined is None else replace(joined, position=joined.position + done, steps=steps)
        found.append(Outlook(steps, phase.batch_size, phase.sequence_length, part, own, problem))
        done += steps
    return found
