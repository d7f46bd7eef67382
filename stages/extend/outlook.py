"""What the phases of an extension will do, before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from longcat.stages.extend.config import ExtendConfig
from longcat.stages.train.join import JoinedSchedule
from longcat.stages.train.outlook import Outlook

if TYPE_CHECKING:
    from longcat.stages.train.data_join import JoinedData


def outlooks(config: ExtendConfig, joined: JoinedSchedule | None, data: Sequence[JoinedData | None]) -> list[Outlook]:
    """One a phase: its part of the schedule of all phases, and its data."""
    found, done = [], 0
    for phase, own in zip(config.phases, data, strict=True):
        steps = phase.step_count
        part = None if joined is None else replace(joined, position=joined.position + done, steps=steps)
        found.append(Outlook(steps, phase.batch_size, phase.sequence_length, part, own))
        done += steps
    return found
