"""Token windows of training samples, as a pure function of the sample number, without state.

The documents are permuted in each epoch and concatenated to one stream. Window w of L tokens holds the inputs
`stream[w*L : w*L+L]` and their targets, shifted by one; so every token except the first is a target exactly once per
epoch (an incomplete window at the end is dropped; each epoch drops other tokens). Samples visit the W windows in
strides of about W/1.618, so that those of one batch are far apart and not from one long document.

The stages of a curriculum keep their order: each is a separate, internally permuted stream, and an epoch reads all
windows of the first stage before the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from longcat.pipeline.errors import InputError
from longcat.pipeline.tokens import TokenFile
from longcat.stages.formats.curriculum import read_curriculum

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
IGNORED = -100
PARTS = 1_000_000
GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


class Window(NamedTuple):
    """One sample: token ids [L+1], and the positions below L at which a document starts, including 0.

    trained: bool [L], mask of the L targets that count; None: all. budget: maximum number of keys that a token of the
        row may attend to, for attention kinds with budgets; None: no limit.
    """

    ids: Ids
    starts: Ids
    trained: Mask | None = None
    budget: int | None = None


class Batch(NamedTuple):
    """Samples: token ids [B, L+1] and `Window.starts` of every row; `trained` [B, L] and `budgets` [B], if any."""

    ids: Ids
    starts: tuple[Ids, ...]
    trained: Mask | None = None
    budgets: Ids | None = None

    def rows(self, first: int, end: int) -> Batch:
        trained = None if self.trained is None else self.trained[first:end]
        budgets = None if self.budgets is None else self.budgets[first:end]
        return Batch(self.ids[first:end], self.starts[first:end], trained, budgets)

    def targets(self) -> Ids:
        """Target ids [B, L], `IGNORED` for targets that do not count."""
        targets = self.ids[:, 1:]
        return targets if self.trained is None else np.where(self.trained, targets, IGNORED)

    def cu_seqlens(self) -> npt.NDArray[np.int32]:
        """Bounds of documents and rows in the B * L flattened inputs: int32, from 0 to B * L."""
        length = self.ids.shape[1] - 1
        starts = [row * length + places for row, places in enumerate(self.starts)]
        return np.concatenate([*starts, [len(self.ids) * length]]).astype(np.int32)


class WindowSource(Protocol):
    """Endless sequence of training samples, of which an epoch has `windows_per_epoch`."""

    windows_per_epoch: int

    def sample(self, number: int) -> Window:
        """Sample `number`."""


@dataclass(frozen=True)
class _Epoch:
    """One order of the documents: indices into the selected ones, and start positions in the stream with its end."""

    documents: Ids
    starts: Ids


class TokenWindows:
    """Windows over the documents of one token file that have at least `min_document_tokens` tokens.

    With `documents` only documents in that range are used.
    """

    def __init__(
        self,
        tokens: TokenFile,
        *,
        sequence_length: int,
        seed: int,
        min_document_tokens: int = 0,
        documents: range | None = None,
    ) -> None:
        """Select the documents.

        Raises:
            InputError: no document is long enough, or together they do not fill a window.
        """
        self.tokens = tokens
        self.sequence_length = sequence_length
        self.seed = seed
        within = documents or range(tokens.n_documents)
        self._first = within.start
        self._lengths = np.diff(tokens.document_offsets[within.start : within.stop + 1])
        self._chosen: Ids = np.flatnonzero(self._lengths >= max(1, min_document_tokens))
        if not len(self._chosen):
            raise InputError(
                f"no document has {min_document_tokens} tokens or more; {describe_lengths(self._lengths)}",
                where=str(tokens.prefix),
                hint="lower min_document_tokens, or pack longer documents",
            )
        self.stream_tokens = int(self._lengths[self._chosen].sum())
        self.windows_per_epoch = (self.stream_tokens - 1) // sequence_length
        if self.windows_per_epoch < 1:
            raise InputError(
                f"{self.stream_tokens} tokens in {len(self._chosen)} documents do not fill one sequence of "
                f"{sequence_length} tokens and its next token",
                where=str(tokens.prefix),
                hint="lower sequence_length or min_document_tokens, or pack more documents",
            )
        self._stride = coprime_near(self.windows_per_epoch, round(self.windows_per_epoch / GOLDEN_RATIO))
        # A batch may span two epochs, never more.
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def _make_epoch(self, epoch: int) -> _Epoch:
        documents = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self._chosen)
        starts = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum(self._lengths[documents], out=starts[1:])
        return _Epoch(documents, starts)

    def sample(self, number: int) -> Window:
        """Sample `number`, in epoch `number // windows_per_epoch`."""
        epoch_number, index = divmod(number, self.windows_per_epoch)
        epoch = self._epoch(epoch_number)
        start = index * self._stride % self.windows_per_epoch * self.sequence_length
        end = start + self.sequence_length + 1
        first = int(np.searchsorted(epoch.starts, start, side="right")) - 1
        last = int(np.searchsorted(epoch.starts, end, side="left"))
        pieces = []
        for place in range(first, last):
            offset = int(epoch.starts[place])
            document = self.tokens.document(self._first + int(epoch.documents[place]))
            pieces.append(document[max(0, start - offset) : end - offset])
        inside: Ids = np.maximum(epoch.starts[first:last] - start, 0)
        return Window(np.concatenate(pieces).astype(np.int64), inside[inside < self.sequence_length])


class StagedWindows:
    """Windows of a curriculum: an epoch consists of all windows of each stage, in stage order."""

    def __init__(self, stages: Sequence[TokenWindows]) -> None:
        self._stages = stages
        self._ends = np.cumsum([stage.windows_per_epoch for stage in stages])
        self.windows_per_epoch = int(self._ends[-1])

    def sample(self, number: int) -> Window:
        """Sample `number`, in epoch `number // windows_per_epoch`."""
        epoch, index = divmod(number, self.windows_per_epoch)
        place = int(np.searchsorted(self._ends, index, side="right"))
        stage = self._stages[place]
        start = int(self._ends[place]) - stage.windows_per_epoch
        return stage.sample(epoch * stage.windows_per_epoch + index - start)


class MixedWindows:
    """Samples of two sources, `fraction` of them from the second, spread evenly.

    Sample g is from the second source when `floor((g+1)*fraction) > floor(g*fraction)`; samples of each source are used
    in order, without gaps.
    """

    def __init__(self, first: WindowSource, second: WindowSource, fraction: float) -> None:
        self.first = first
        self.second = second
        # Integer parts per million keep the arithmetic exact for any number of samples.
        self._parts = round(fraction * PARTS)
        # Until all samples of the first source were used.
        self.windows_per_epoch = -(-first.windows_per_epoch * PARTS // max(1, PARTS - self._parts))

    def sample(self, number: int) -> Window:
        before = number * self._parts // PARTS
        if (number + 1) * self._parts // PARTS > before:
            return self.second.sample(before)
        return self.first.sample(number - before)


def coprime_near(count: int, guess: int) -> int:
    """Smallest number >= max(`guess`, 1) that is coprime to `count`."""
    stride = max(1, guess)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


def batch(source: WindowSource, first_sample: int, size: int) -> Batch:
    """`size` consecutive samples."""
    samples = [source.sample(first_sample + slot) for slot in range(size)]
    ids, starts = np.stack([sample.ids for sample in samples]), tuple(sample.starts for sample in samples)
    trained = budgets = None
    if any(sample.trained is not None for sample in samples):
        everything = np.ones(ids.shape[1] - 1, dtype=np.bool_)
        trained = np.stack([everything if sample.trained is None else sample.trained for sample in samples])
    if any(sample.budget is not None for sample in samples):
        length = ids.shape[1] - 1
        budgets = np.array([length if sample.budget is None else sample.budget for sample in samples], dtype=np.int64)
    return Batch(ids, starts, trained, budgets)


class ValidationWindows(NamedTuple):
    """Inputs and targets [n, L], and `Window.starts` of every row; None: without the document mask."""

    inputs: Ids
    targets: Ids
    starts: tuple[Ids, ...] | None

    @property
    def tokens(self) -> int:
        """Number of targets."""
        return int((self.targets != IGNORED).sum())

    def rows(self, first: int, end: int) -> ValidationWindows:
        return ValidationWindows(
            self.inputs[first:end], self.targets[first:end], None if self.starts is None else self.starts[first:end]
        )

    def padded(self, rows: int) -> ValidationWindows:
        """With so many more rows without targets."""
        none = (np.zeros(1, dtype=np.int64),) * rows
        return ValidationWindows(
            np.pad(self.inputs, ((0, rows), (0, 0))),
            np.pad(self.targets, ((0, rows), (0, 0)), constant_values=IGNORED),
            None if self.starts is None else self.starts + none,
        )

    def cu_seqlens(self, length: int | None = None) -> npt.NDArray[np.int32] | None:
        """As `Batch.cu_seqlens`, of the first `length` tokens of every row; None without the document mask."""
        if self.starts is None:
            return None
        width = self.inputs.shape[1] if length is None else length
        starts = [row * width + places[places < width] for row, places in enumerate(self.starts)]
        return np.concatenate([*starts, [len(self.inputs) * width]]).astype(np.int32)


def validation_windows(
    tokens: TokenFile, sequence_length: int, count: int, *, document_mask: bool = True
) -> ValidationWindows:
    """At most `count` windows of L tokens spread evenly over a token file, in file order.

    The last window may be short: its missing inputs are 0 and its missing targets `IGNORED`. n is 0 for a file that
    holds fewer than two tokens.
    """
    available = max(0, -(-(tokens.total_tokens - 1) // sequence_length))
    chosen = sorted({index * available // count for index in range(count)}) if available else []
    inputs = np.zeros((len(chosen), sequence_length), dtype=np.int64)
    targets = np.full((len(chosen), sequence_length), IGNORED, dtype=np.int64)
    for row, index in enumerate(chosen):
        piece = tokens.tokens[index * sequence_length : (index + 1) * sequence_length + 1]
        inputs[row, : len(piece) - 1] = piece[:-1]
        targets[row, : len(piece) - 1] = piece[1:]
    if not document_mask:
        return ValidationWindows(inputs, targets, None)
    offsets = tokens.document_offsets
    starts = [_starts_within(offsets, index * sequence_length, sequence_length) for index in chosen]
    return ValidationWindows(inputs, targets, tuple(starts))


def _starts_within(offsets: Ids, start: int, length: int) -> Ids:
    """Starts of documents in a window of a token file, relative to it, 0 included."""
    first, last = np.searchsorted(offsets, [start + 1, start + length])
    return np.concatenate([[0], np.asarray(offsets[first:last], dtype=np.int64) - start]).astype(np.int64)


def describe_lengths(lengths: npt.NDArray[np.int64]) -> str:
    """Summary of document lengths for an error message."""
    if not len(lengths):
        return "there are no documents"
    longest = int(lengths.max())
    marks: Sequence[int] = [2**power for power in range(6, longest.bit_length())][-4:]
    counts = ", ".join(f"{int((lengths >= mark).sum())} of {mark} or more" for mark in marks)
    return f"of {len(lengths)} documents the longest has {longest}" + (f" ({counts})" if counts else "")


def training_windows(
    folder: Path, *, sequence_length: int, seed: int, min_document_tokens: int = 0
) -> TokenWindows | StagedWindows:
    """Training samples of a tokens artifact, in the order of its curriculum if it has one.

    Raises:
        InputError: the documents, or those of one stage, do not fill a sequence.
        IntegrityError: the token file or the curriculum is damaged.
    """
    tokens = open_tokens(folder, "train")
    stages = read_curriculum(folder, tokens.n_documents)
    if not stages:
        return TokenWindows(tokens, sequence_length=sequence_length, seed=seed, min_document_tokens=min_document_tokens)
    windows, start = [], 0
    for stage in stages:
        documents = range(start, start := start + stage.documents)
        try:
            windows.append(
                TokenWindows(
                    tokens,
                    sequence_length=sequence_length,
                    seed=seed,
                    min_document_tokens=min_document_tokens,
                    documents=documents,
                )
            )
        except InputError as error:
            raise InputError(f"stage {stage.name!r}: {error.what}", where=error.where, hint=error.hint) from None
    return StagedWindows(windows)


def open_tokens(folder: Path, split: str) -> TokenFile:
    """Token file of one split (`train`, `validation`) of a tokens artifact."""
    return TokenFile(folder / split)
