"""Loss spikes: which steps are left out, and when a run goes back (OLMo's skipped steps, PaLM's rewinds).

A step is bad when its loss or its gradient norm exceeds `mean + deviations * standard deviation` of the last `window`
steps that were taken, or is not finite. Its optimizer step is left out and it never enters the history. After
`diverged_after` bad steps in a row, or a loss that is still not finite after a bad step, the weights themselves are
taken to be damaged: the run goes back to the newest save older than the first bad step and goes on with the data that
lies behind the bad stretch, since spikes come of this state meeting those samples (PaLM, section 5.1).

Everything is a function of the records of metrics.jsonl, so a run that was killed and taken up decides the same.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from longcat.stages.train.errors import DivergedError
from longcat.stages.train.stability.config import SpikeOptions

WATCHED = {"loss": "loss", "gradient_norm": "gradient norm"}


@dataclass(frozen=True)
class Verdict:
    """What to do with a step whose gradients are there: take it, skip it, or go back.

    `reason` says why, empty for `take`; `first_bad_step` is the first of the bad steps in a row.
    """

    action: Literal["take", "skip", "rewind"]
    reason: str = ""
    first_bad_step: int = 0


@dataclass(frozen=True)
class Rewound:
    """A way back: the last step that is undone, and the step of the save gone back to.

    `samples_skipped` are all samples that the run has jumped over by now, `rewinds` the times it has gone back. Both
    are totals, because going further back may undo the record of an earlier way back.
    """

    from_step: int
    to_step: int
    samples_skipped: int
    rewinds: int

    def record(self) -> dict[str, int]:
        """The `rewound` object of the first line of metrics.jsonl after it."""
        return asdict(self)


def recorded(value: float) -> float | None:
    """A figure of a skipped step as metrics.jsonl can hold it: null where it is not finite."""
    return value if math.isfinite(value) else None


class SpikeGuard:
    """Judges every step by those before it.

    `records` are those of metrics.jsonl. A record with `rewound` is the first after a way back; what lies between the
    two steps, if it is still there, is forgotten.
    """

    def __init__(self, options: SpikeOptions, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self.options = options
        self.rewinds = 0
        self.samples_skipped = 0
        self._steps = array("q")
        self._taken = {key: array("d") for key in WATCHED}
        self._bad: list[int] = []
        for record in records:
            self.add(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Enter a line of metrics.jsonl: `step`, `loss`, `gradient_norm`, `skipped` and `rewound`."""
        if record.get("rewound"):
            self._go_back(Rewound(**record["rewound"]))
        if record.get("skipped"):
            self._bad.append(record["step"])
            return
        self._bad.clear()
        self._steps.append(record["step"])
        for key, values in self._taken.items():
            values.append(record[key])

    def judge(self, step: int, loss: float, gradient_norm: float) -> Verdict:
        """What to do with `step`, before its optimizer step; with the action `none`, always to take it.

        Raises:
            DivergedError: the run has diverged and `action` allows no way back.
        """
        reason = self._reason({"loss": loss, "gradient_norm": gradient_norm})
        if not reason or self.options.action == "none":
            return Verdict("take")
        first = self._bad[0] if self._bad else step
        lost = bool(self._bad) and not math.isfinite(loss)
        if not lost and len(self._bad) + 1 < self.options.diverged_after:
            return Verdict("skip", reason, first)
        if self.options.action == "skip":
            raise DivergedError(
                f"the run has diverged: all steps from {first} to {step} were bad, at the last {reason}",
                hint="train with stability.spikes.action=rewind, or a lower learning_rate",
            )
        return Verdict("rewind", reason, first)

    def rewind(self, verdict: Verdict, step: int, saves: Iterable[int], batch_size: int) -> Rewound:
        """How to go back at `step`, given the steps that there are saves of and the samples a step takes.

        The saves after the one gone back to have to be removed, and the data goes on `samples_skipped` further than
        its own place. The guard has to be told by the next record.

        Raises:
            DivergedError: there is no save old enough, or the run has gone back too often.
        """
        older = [save for save in saves if save < verdict.first_bad_step]
        told = f"the run has diverged: steps {verdict.first_bad_step} to {step} were bad, at the last {verdict.reason}"
        if self.rewinds >= self.options.max_rewinds:
            raise DivergedError(
                f"{told}, after {self.rewinds} rewinds",
                hint="the data is not to blame: train with a lower learning_rate, more schedule.warmup_steps or a "
                "hidden z-loss, or allow more by stability.spikes.max_rewinds",
            )
        if not older:
            raise DivergedError(
                f"{told}, and no save is older",
                hint="train with a lower learning_rate, keep more saves by keep_last, or save more often by "
                "checkpoint_every",
            )
        skipped = self.samples_skipped + (step - max(older)) * batch_size
        return Rewound(step, max(older), skipped, self.rewinds + 1)

    def _go_back(self, rewound: Rewound) -> None:
        self.rewinds, self.samples_skipped = rewound.rewinds, rewound.samples_skipped
        self._bad.clear()
        kept = bisect_right(self._steps, rewound.to_step)
        del self._steps[kept:]
        for values in self._taken.values():
            del values[kept:]

    def _reason(self, figures: Mapping[str, float]) -> str:
        for key, name in WATCHED.items():
            value = figures[key]
            if not math.isfinite(value):
                return f"the {name} is {value}"
            if len(self._steps) < self.options.least_history:
                continue
            limit = self._limit(self._taken[key][-self.options.window :])
            if value > limit:
                return f"the {name} of {value:.4g} exceeds {limit:.4g}"
        return ""

    def _limit(self, values: Sequence[float]) -> float:
        mean = math.fsum(values) / len(values)
        variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
        return mean + self.options.deviations * max(math.sqrt(variance), self.options.least_deviation * abs(mean))
