"""What a run will do, before its first step: steps, tokens, epochs, learning rate, and data that was read before.

A row of figures for `--dry-run` and the metrics of the artifact, and sentences for the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longcat.stages.train.config import TrainConfig
from longcat.stages.train.joins.schedule import JoinedSchedule

if TYPE_CHECKING:
    from longcat.stages.train.joins.data import JoinedData, JoinedStream

DIGITS = 4


@dataclass(frozen=True)
class Outlook:
    """A run, or one phase of it; `schedule` and `data` are None if not known yet.

    `problem`: why the tokens do not fill its batches, which the run refuses when it starts.
    """

    steps: int
    batch_size: int
    sequence_length: int
    schedule: JoinedSchedule | None
    data: JoinedData | None
    problem: str | None = None

    @property
    def samples(self) -> int:
        return self.steps * self.batch_size

    def row(self) -> dict[str, Any]:
        """Figures by name; None: not known."""
        rates, figures = self.schedule, self._data_figures()
        return {
            "sequence_length": self.sequence_length,
            "steps": self.steps,
            "tokens": self.samples * self.sequence_length,
            **figures,
            "learning_rate": None if rates is None else {"start": rates.first, "peak": rates.peak, "end": rates.last},
            "schedule": None if rates is None else rates.how,
            "data": None if self.data is None else self.data.main.how,
            **({} if self.problem is None else {"problem": self.problem}),
        }

    def _data_figures(self) -> dict[str, float | None]:
        if self.data is None:
            return dict.fromkeys(("epochs", "epochs_before", "seen_before"))
        found = self.data.figures(self.samples)
        return {key: None if value is None else round(value, DIGITS) for key, value in found.items()}

    def sentences(self) -> Iterator[str]:
        """Text for the log; of what is known."""
        tokens, figures = self.samples * self.sequence_length, self._data_figures()
        epochs = "" if figures["epochs"] is None else f", {figures['epochs']:.3g} epochs"
        size = f"{self.batch_size:,} x {self.sequence_length:,} tokens"
        yield f"{self.steps:,} steps of {size}: {tokens:,} tokens{epochs}"
        if self.schedule is not None:
            rates = self.schedule
            yield (
                f"learning rate {rates.first:.4g} at the start, {rates.peak:.4g} at the highest, {rates.last:.4g} at "
                f"the end; {_schedule(rates)}"
            )
        if self.data is not None:
            yield f"data: {_stream(self.data.main)}"
            if self.data.long is not None:
                yield f"long documents, {self.data.fraction:.0%} of the sequences: {_stream(self.data.long)}"
            yield _seen(figures["seen_before"])


def outlook_of(
    config: TrainConfig, joined: JoinedSchedule | None, data: JoinedData | None, problem: str | None = None
) -> Outlook:
    """Outlook of stage `train`."""
    return Outlook(config.all_steps, config.batch_size, config.sequence_length, joined, data, problem)


def _schedule(joined: JoinedSchedule) -> str:
    total = f"{joined.schedule.total_steps:,} steps"
    if joined.how == "continue":
        return f"the checkpoint's schedule of {total} goes on at its step {joined.position + 1:,}"
    if joined.how == "rewarm":
        return (
            f"a schedule of its own of {total}, warmed up from {joined.schedule.start:.4g}, where the checkpoint ended"
        )
    return f"a new schedule of {total}, warmed up from 0"


def _stream(stream: JoinedStream) -> str:
    if stream.how == "new":
        return "from its beginning"
    if stream.how == "other":
        what = "other tokens" if stream.seen_before is None else "another order or selection of the documents"
        return f"{what} than the checkpoint has read, from the beginning"
    epochs = stream.windows.epochs(stream.at.position)
    if stream.how == "continue":
        return f"goes on after {epochs:.3g} epochs"
    if not stream.at.read:
        return f"goes on after {epochs:.3g} epochs, which other sequences read"
    left = "the documents of the epoch that were read least" if stream.at.whole else "what the epoch has left"
    return f"goes on after {epochs:.3g} epochs, which other sequences read, with {left}"


def _seen(share: float | None) -> str:
    if share is None:
        return "how much of it the model was trained on before is not known"
    return f"{share:.1%} of it the model was trained on before this run"
