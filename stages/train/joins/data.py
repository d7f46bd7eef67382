"""What a run reads that starts from a checkpoint: streams of documents go on where they stopped.

A stream that the model has read goes on, also after runs on other tokens, and in sequences of another length or packing
(`stages.formats.continued_windows`). Another seed or selection of documents is another stream: it starts at its
beginning, and what share of it was read before is only an estimate; of other tokens it is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError
from longcat.stages.formats.continued_windows import ContinuedWindows, go_on, windows_at
from longcat.stages.formats.training_state import DataPosition, Packing, TrainingState
from longcat.stages.formats.training_windows import SOURCES, MixedWindows, training_windows
from longcat.stages.formats.windows import EpochPart, PackedSource, WindowSource, open_tokens
from longcat.stages.train.config import TrainConfig


@dataclass(frozen=True)
class Stream:
    """Documents of a tokens artifact in the order of a seed; `long`: without the stages of a curriculum."""

    tokens: str
    folder: Path
    seed: int
    across_documents: bool
    min_document_tokens: int = 0
    long: bool = False

    @classmethod
    def of(cls, tokens: Artifact, **options: Any) -> Stream:
        return cls(tokens.id, tokens.path, **options)

    def windows(self, sequence_length: int, packing: Packing) -> PackedSource[EpochPart]:
        """Sequences of one kind; raises as `training_windows`."""
        options: dict[str, Any] = {
            "sequence_length": sequence_length,
            "seed": self.seed,
            "min_document_tokens": self.min_document_tokens,
            "across_documents": self.across_documents,
        }
        if self.long:
            return SOURCES[packing](open_tokens(self.folder, "train"), **options)
        return training_windows(self.folder, packing=packing, **options)

    def position(self, sequence_length: int, packing: Packing) -> DataPosition:
        """Before the first sample."""
        return DataPosition(
            tokens=self.tokens,
            seed=self.seed,
            sequence_length=sequence_length,
            min_document_tokens=self.min_document_tokens,
            packing=packing,
        )


@dataclass(frozen=True)
class JoinedStream:
    """A stream of a run, from `at` on.

    how: `new` for a new model, `continue` in the same sequences, `rest` in others, `other` from the beginning of a
        stream that was not read. seen_before: of `new` and `other`, the share of its tokens read in other streams.
    """

    at: DataPosition
    windows: ContinuedWindows
    how: Literal["new", "continue", "rest", "other"]
    seen_before: float | None = None

    def seen(self, samples: int) -> float | None:
        """Share of the tokens of so many samples that were read before this run; None: not known."""
        if self.how in ("new", "other"):
            return self.seen_before
        return self.windows.seen(self.at.position, samples)


def join_stream(
    before: TrainingState | None, stream: Stream, sequence_length: int, packing: Packing, *, whole: bool = False
) -> JoinedStream:
    """Where a stream goes on after `before`; None: a new model. `whole`: in whole documents, see `ReadTokens.left`."""
    fresh = stream.position(sequence_length, packing)
    for known in before.streams if before else ():
        if known.same_stream(fresh):
            at = go_on(known, sequence_length, packing, stream.windows, whole=whole)
            return JoinedStream(at, windows_at(at, stream.windows), "continue" if at is known else "rest")
    windows = windows_at(fresh, stream.windows)
    if before is None:
        return JoinedStream(fresh, windows, "new", 0.0)
    read = sum(known.tokens_read for known in before.streams if known.tokens == stream.tokens)
    share = min(1.0, read / open_tokens(stream.folder, "train").total_tokens) if read else None
    return JoinedStream(fresh, windows, "other", share)


@dataclass(frozen=True)
class JoinedData:
    """Data of a run: all documents, and with `fraction` > 0 that fraction of the sequences from `long` ones."""

    main: JoinedStream
    long: JoinedStream | None = None
    fraction: float = 0.0

    @cached_property
    def source(self) -> WindowSource:
        return self.main.windows if self._mixture is None else self._mixture

    @property
    def first(self) -> int:
        """Number of the first sample in `source`."""
        return self.main.at.position if self.long is None else 0

    @cached_property
    def _mixture(self) -> MixedWindows | None:
        if self.long is None:
            return None
        starts = self.main.at.position, self.long.at.position
        return MixedWindows(self.main.windows, self.long.windows, self.fraction, starts)

    def after(self, samples: int) -> list[DataPosition]:
        """Positions after so many samples."""
        if self.long is None or self._mixture is None:
            return [_moved(self.main.at, self.main.at.position + samples)]
        ends = self._mixture.numbers(self.first + samples)
        return [_moved(stream.at, end) for stream, end in zip((self.main, self.long), ends, strict=True)]

    def state_after(self, before: TrainingState, samples: int) -> TrainingState:
        """`before` with the positions after so many samples."""
        return before.model_copy(update=before.after_reading(*self.after(samples)))

    def figures(self, samples: int) -> dict[str, Any]:
        """Epochs of all documents before and in so many samples, and the share of their tokens read before."""
        before, after = (self.source.epochs(self.first + count) for count in (0, samples))
        return {"epochs": after - before, "epochs_before": before, "seen_before": self._seen(samples)}

    def _seen(self, samples: int) -> float | None:
        if self.long is None:
            return self.main.seen(samples)
        parts = [
            (end.position - stream.at.position, stream)
            for stream, end in zip((self.main, self.long), self.after(samples), strict=True)
        ]
        shares = [(count, stream.seen(count)) for count, stream in parts if count]
        if any(share is None for _, share in shares):
            return None
        return sum(count * (share or 0.0) for count, share in shares) / samples


def _moved(at: DataPosition, position: int) -> DataPosition:
    return at.model_copy(update={"position": position})


def check_fills_a_batch(stream: JoinedStream, batch_size: int) -> None:
    """Raise InputError if the tokens have fewer sequences than one batch."""
    if (windows := stream.windows.windows_per_epoch) < batch_size:
        raise InputError(
            f"the tokens fill {windows} sequences of {stream.at.sequence_length} tokens, batch_size is {batch_size}",
            where=f"tokens {stream.at.tokens}",
            hint="lower batch_size or sequence_length, or pack more documents",
        )


def train_data(config: TrainConfig, tokens: Artifact, before: TrainingState | None) -> JoinedData:
    """Data of stage `train`; `before` None: of a new model.

    Raises:
        InputError: the documents do not fill a sequence or a batch.
    """
    stream = Stream.of(
        tokens,
        seed=config.seed,
        across_documents=config.objective.loss_across_documents,
        min_document_tokens=config.min_document_tokens,
    )
    main = join_stream(before, stream, config.sequence_length, config.packing)
    check_fills_a_batch(main, config.batch_size)
    return JoinedData(main)
