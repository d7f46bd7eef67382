"""How a run goes on from its input checkpoint; pure functions of the checkpoint's training state and the configuration.

Learning rate. One schedule over several runs has its length in `schedule.total_steps`, so the default is `continue` if
that is set. Otherwise the checkpoint's own schedule is complete, usually with a low rate, and the default is `rewarm`:
the run has a schedule of its own, which warms up from that rate (Ibrahim et al. 2024, "Simple and scalable strategies
to continually pre-train large language models": re-warm to the peak, then decay again).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from longcat.pipeline.errors import ConfigError
from longcat.stages.formats.training_state import TrainingState
from longcat.stages.train.config import ScheduleOptions, TrainingOptions
from longcat.stages.train.optim.schedule import Schedule

# Two schedules that differ in rounding only.
SAME_RATE = 1e-6


@dataclass(frozen=True)
class JoinedSchedule:
    """Schedule of a run of `steps` steps, and the position of its first step.

    `how` is `new` after no training, else the `schedule.on_join` that applies.
    """

    schedule: Schedule
    position: int
    steps: int
    how: Literal["new", "continue", "rewarm", "restart"]

    @property
    def first(self) -> float:
        return self.schedule.learning_rate(self.position)

    @property
    def peak(self) -> float:
        return self.schedule.peak_within(self.position, self.steps)

    @property
    def last(self) -> float:
        return self.schedule.learning_rate(self.position + self.steps - 1)

    def after(self) -> dict[str, Any]:
        """Fields of the training state at the end."""
        return {
            "schedule_position": self.position + self.steps,
            "learning_rate": self.last,
            "warmup_from": self.schedule.start,
        }


def join_schedule(options: TrainingOptions, before: TrainingState, steps: int) -> JoinedSchedule:
    """Schedule of a run of `steps` steps that starts from `before`.

    Raises:
        ConfigError: the learning rate would jump.
    """
    chosen, peak = options.schedule, options.learning_rate
    if before.schedule_position == 0:
        return JoinedSchedule(Schedule.of(chosen, peak, steps), 0, steps, "new")
    how = chosen.on_join or ("continue" if chosen.total_steps is not None else "rewarm")
    if how == "continue":
        return _continued(chosen, peak, before, steps)
    start = (before.learning_rate or 0.0) if how == "rewarm" else 0.0
    schedule = Schedule.of(chosen, peak, steps, start)
    if how == "rewarm" and not schedule.warmup_steps and not _same(start, peak):
        raise ConfigError(
            f"schedule.warmup_steps = 0 makes the learning rate jump from {start:g}, where the checkpoint ended, to "
            f"{peak:g}",
            hint="set it to 1 or more, or schedule.on_join=restart",
        )
    return JoinedSchedule(schedule, 0, steps, how)


def _continued(chosen: ScheduleOptions, peak: float, before: TrainingState, steps: int) -> JoinedSchedule:
    """The schedule of `before`, which must have had its last learning rate at its last position."""
    position, ended = before.schedule_position, before.learning_rate
    schedule = Schedule.of(chosen, peak, position + steps, before.warmup_from)
    if ended is not None and not _same(schedule.learning_rate(position - 1), ended):
        raise ConfigError(
            f"the learning rate would jump: the schedule of the checkpoint ended at {ended:g} at its step {position}, "
            f"this one stands at {schedule.learning_rate(position):g} at step {position + 1} of {schedule.total_steps}",
            hint=f"schedule.on_join=rewarm warms up from {ended:g} to a schedule of this run; or give learning_rate "
            "and schedule.* of the first run",
        )
    return JoinedSchedule(schedule, position, steps, "continue")


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=SAME_RATE)
