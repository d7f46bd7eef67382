"""Samples of a stream of documents that go on where other sequences of it were read.

What sequences of another length or packing read of an epoch is known exactly, as positions in the stream of its
documents (`stages.formats.read_tokens`). What is left of the epoch is packed again: no token is an input twice, and
none is left out but those of an incomplete window. Parts that do not follow each other in the stream are documents of
their own in a window, and no first token of a part is a target.

An extension reads whole documents instead, those that were read least.

The next epoch is then a whole one. Everything is a pure function of the sample number and the `DataPosition`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from longcat.stages.formats.read_tokens import ReadTokens
from longcat.stages.formats.training_state import DataPosition, Packing, Reading
from longcat.stages.formats.windows import EpochPart, PackedSource, Window

# The windows of a stream for a sequence length and a packing.
SourceOf = Callable[[int, Packing], PackedSource[EpochPart]]


class ContinuedWindows:
    """Samples of what is left of an epoch after `read`, then those of the epochs after it."""

    def __init__(
        self, source: PackedSource[EpochPart], epoch: int = 0, read: ReadTokens | None = None, *, whole: bool = False
    ) -> None:
        self.source = source
        self.epoch = epoch
        self._whole = whole
        self.read = ReadTokens.nothing() if read is None else read
        self.windows_per_epoch = source.windows_per_epoch
        self.rest_windows = self.windows_per_epoch if read is None else self.rest.windows

    @cached_property
    def rest(self) -> EpochPart:
        """What is left of the first epoch."""
        return self.source.part(self.epoch, self.read if len(self.read.starts) else None, whole=self._whole)

    def place(self, number: int) -> tuple[int, int]:
        """Epoch of sample `number`, and how many samples of it or of its rest are before."""
        if number < self.rest_windows:
            return self.epoch, number
        later, index = divmod(number - self.rest_windows, self.windows_per_epoch)
        return self.epoch + 1 + later, index

    def sample(self, number: int) -> Window:
        """Sample `number`."""
        epoch, index = self.place(number)
        if number < self.rest_windows:
            return self.rest.sample(index)
        return self.source.sample(epoch * self.windows_per_epoch + index)

    def epochs(self, samples: int) -> float:
        """Epochs that were read with the samples below `samples`, from the beginning of the stream."""
        epoch, index = self.place(samples)
        if samples >= self.rest_windows:
            return epoch + index / self.windows_per_epoch
        done = self.read.total / self.source.total
        return epoch + done + (1 - done) * index / self.rest_windows

    def seen(self, first: int, samples: int) -> float:
        """Share of the tokens of `samples` samples from `first` that samples before `first` had read."""
        if self.place(first)[0] > 0:
            return 1.0
        in_rest = min(samples, self.rest_windows - first)
        again = self._read_again(first + in_rest) - self._read_again(first)
        before = (self.read | self.rest.read(first)).total / self.source.total
        length = self.source.sequence_length
        return min(1.0, (again / length + (samples - in_rest) * before) / samples)

    def _read_again(self, samples: int) -> int:
        """Tokens in the first samples of the rest that were read before it."""
        read = self.rest.read(samples)
        return int(self.read.within(read.starts, read.ends).sum())


def windows_at(at: DataPosition, source_of: SourceOf) -> ContinuedWindows:
    """The samples of which `at.position` counts."""
    read: ReadTokens | None = None
    for one in at.read:
        found = source_of(one.sequence_length, one.packing).part(at.epoch, read, whole=one.whole).read(one.samples)
        read = found if read is None else read | found
    return ContinuedWindows(source_of(at.sequence_length, at.packing), at.epoch, read, whole=at.whole)


def go_on(
    at: DataPosition, sequence_length: int, packing: Packing, source_of: SourceOf, *, whole: bool = False
) -> DataPosition:
    """Where sequences of this kind go on in a stream that was read up to `at`; `whole`: with whole documents."""
    if (at.sequence_length, at.packing) == (sequence_length, packing):
        return at
    epoch, samples = windows_at(at, source_of).place(at.position)
    read = at.read if epoch == at.epoch else ()
    if samples:
        read += (Reading(sequence_length=at.sequence_length, packing=at.packing, whole=at.whole, samples=samples),)
    return at.model_copy(
        update={
            "sequence_length": sequence_length,
            "packing": packing,
            "whole": whole,
            "epoch": epoch,
            "read": read,
            "position": 0,
            "tokens_before": at.tokens_read,
        }
    )
