"""Loss spikes: skipped steps (OLMo) and rewinds (PaLM).

A step is bad when, compared with the last `window` good steps,

* its loss exceeds `mean + deviations * standard deviation`,
* the logarithm of its gradient norm does, and either its loss exceeds `mean + deviations / 2 * standard deviation` or
  its norm exceeds `norm_multiple` times the median,

or when loss or norm is not finite. Norms have heavy tails even in their logarithm, and clipping bounds them: in healthy
runs one step in a thousand exceeds six deviations and some exceed thirteen, with losses like their neighbours'. None
exceeded four times the median. So a norm counts together with the loss, or where it is out of all proportion.

The optimizer step of a bad step is skipped and it does not enter the history. After `diverged_after` consecutive bad
steps, or a loss that is still not finite after a bad step, the weights are considered damaged: the run rewinds to the
newest save older than the first bad step and continues with the data after the bad steps, since spikes arise from this
state combined with those samples (PaLM, section 5.1).

Decisions are a function of the records of metrics.jsonl, so a resumed run makes the same ones.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from longcat.stages.train.stability.config import SpikeOptions
from longcat.stages.train.stability.errors import DivergedError

WATCHED = {"loss": "loss", "gradient_norm": "gradient norm"}
# Part of `deviations` by which the loss must exceed its mean for a large gradient norm to count.
CONFIRMING = 1 / 2


@dataclass(frozen=True)
class SpikeVerdict:
    """Decision for a step after its gradients: take, skip, or rewind.

    `reason` is empty for `take`; `first_bad_step` is the first of the consecutive bad steps.
    """

    action: Literal["take", "skip", "rewind"]
    reason: str = ""
    first_bad_step: int = 0


@dataclass(frozen=True)
class Rewound:
    """A rewind: the last undone step, and the step of the restored save.

    `samples_skipped` is the total number of skipped samples, `rewinds` that of rewinds. Both are totals, because a
    further rewind may undo the record of an earlier one.
    """

    from_step: int
    to_step: int
    samples_skipped: int
    rewinds: int

    def record(self) -> dict[str, int]:
        """The `rewound` object of the next line of metrics.jsonl."""
        return asdict(self)


def recorded(value: float) -> float | None:
    """Figure of a skipped step for metrics.jsonl: null if not finite."""
    return value if math.isfinite(value) else None


def recorded_all(figures: Any) -> Any:
    """`recorded` of every number in nested mappings and lists."""
    if isinstance(figures, Mapping):
        return {name: recorded_all(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [recorded_all(value) for value in figures]
    return recorded(figures) if isinstance(figures, float) else figures


class SpikeGuard:
    """Judges every step by the previous ones.

    `records` are those of metrics.jsonl. A record with `rewound` is the first after a rewind; records between the two
    steps are discarded.
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
        """Add a line of metrics.jsonl: `step`, `loss`, `gradient_norm`, `skipped` and `rewound`."""
        if record.get("rewound"):
            self._go_back(Rewound(**record["rewound"]))
        if record.get("skipped"):
            self._bad.append(record["step"])
            return
        self._bad.clear()
        self._steps.append(record["step"])
        for key, values in self._taken.items():
            values.append(record[key])

    def judge(self, step: int, loss: float, gradient_norm: float) -> SpikeVerdict:
        """Decide about `step` before its optimizer step; with action `none`, always take it.

        Raises:
            DivergedError: the run has diverged and `action` does not allow a rewind.
        """
        reason = self._reason({"loss": loss, "gradient_norm": gradient_norm})
        if not reason or self.options.action == "none":
            return SpikeVerdict("take")
        first = self._bad[0] if self._bad else step
        lost = bool(self._bad) and not math.isfinite(loss)
        if not lost and len(self._bad) + 1 < self.options.diverged_after:
            return SpikeVerdict("skip", reason, first)
        if self.options.action == "skip":
            raise DivergedError(
                f"the run has diverged: all steps from {first} to {step} were bad, at the last {reason}",
                hint="train with stability.spikes.action=rewind, or a lower learning_rate",
            )
        return SpikeVerdict("rewind", reason, first)

    def rewind(self, verdict: SpikeVerdict, step: int, saves: Iterable[int], batch_size: int) -> Rewound:
        """Plan a rewind at `step`, given the steps of existing saves and the samples per step.

        The caller must remove later saves, shift the data by `samples_skipped`, and add the next record to the guard.

        Raises:
            DivergedError: there is no save old enough, or too many rewinds.
        """
        older = [save for save in saves if save < verdict.first_bad_step]
        told = f"the run has diverged: steps {verdict.first_bad_step} to {step} were bad, at the last {verdict.reason}"
        if self.rewinds >= self.options.max_rewinds:
            raise DivergedError(
                f"{told}, after {self.rewinds} rewinds",
                hint="the data is not the cause: train with a lower learning_rate, more schedule.warmup_steps or a "
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
            if not math.isfinite(figures[key]):
                return f"the {name} is {figures[key]}"
        if len(self._steps) < self.options.least_history:
            return ""
        loss, norm, most = figures["loss"], figures["gradient_norm"], self.options.deviations
        mean, deviation = _spread(self._recent("loss"))
        deviation = max(deviation, self.options.least_deviation * abs(mean))
        if loss > (limit := mean + most * deviation):
            return f"the loss of {loss:.4g} exceeds {limit:.4g}"
        confirming = mean + CONFIRMING * most * deviation
        return self._reason_of_norm(norm, f"the loss of {loss:.4g} {confirming:.4g}" if loss > confirming else "")

    def _reason_of_norm(self, norm: float, confirmed: str) -> str:
        """Reason to call a gradient norm a spike; `confirmed`: how much the loss exceeds what, if it does."""
        norms = [value for value in self._recent("gradient_norm") if value > 0]
        if norm <= 0 or not norms:
            return ""
        mean, deviation = _spread([math.log(value) for value in norms])
        deviation = max(deviation, self.options.least_deviation)  # of a logarithm: relative to the norm
        log_limit, alone = mean + self.options.deviations * deviation, self.options.norm_multiple * median(norms)
        if math.log(norm) <= log_limit:
            return ""
        if confirmed:
            return f"the gradient norm of {norm:.4g} exceeds {math.exp(log_limit):.4g}, and {confirmed}"
        return f"the gradient norm of {norm:.4g} exceeds {alone:.4g}, whatever the loss" if norm > alone else ""

    def _recent(self, key: str) -> Sequence[float]:
        return self._taken[key][-self.options.window :]


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
