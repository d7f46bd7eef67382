"""Token windows of training samples, as a pure function of the sample number, without state.

The documents are permuted in each epoch and concatenated to one stream. Window w of L tokens holds the inputs
`stream[w*L : w*L+L]` and their targets, shifted by one; so every token except the first is a target exactly once per
epoch (an incomplete window at the end is dropped; each epoch drops other tokens). Samples visit the W windows in
strides of about W/1.618, so that those of one batch are far apart and not from one long document.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from longcat.pipeline.errors import InputError
from longcat.pipeline.tokens import TokenFile
from longcat.stages.formats.packing_figures import PackingFigures
from longcat.stages.formats.read_tokens import ReadTokens

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
IGNORED = -100
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
    """Samples: token ids [B, L+1] and `Window.starts` of every row; `trained` [B, L] and `budgets` [B], if any.

    `budgets` may have one for every layer too: [layers, B].
    """

    ids: Ids
    starts: tuple[Ids, ...]
    trained: Mask | None = None
    budgets: Ids | None = None

    def rows(self, first: int, end: int) -> Batch:
        trained = None if self.trained is None else self.trained[first:end]
        budgets = None if self.budgets is None else self.budgets[..., first:end]
        return Batch(self.ids[first:end], self.starts[first:end], trained, budgets)

    def check_ids(self, vocab_size: int, first: int) -> None:
        """Raise InputError for an id outside the vocabulary; `first` is the number of the first sample."""
        if (largest := int(self.ids.max())) >= vocab_size or int(self.ids.min()) < 0:
            raise InputError(
                f"the data holds the token id {largest}, the model has vocab_size = {vocab_size}",
                where=f"sample {first} to {first + len(self.ids) - 1}",
                hint="pack the documents with the model's tokenizer",
            )

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

    def epochs(self, samples: int) -> float:
        """Epochs in the samples below `samples`."""


class EpochPart(Protocol):
    """Samples of one epoch, or of the rest of it."""

    @property
    def windows(self) -> int:
        """Number of samples."""

    def sample(self, index: int) -> Window:
        """Sample `index`, below `windows`."""

    def read(self, samples: int) -> ReadTokens:
        """Tokens of the samples below `samples`."""


Part_co = TypeVar("Part_co", bound=EpochPart, covariant=True)


class PackedSource(ABC, Generic[Part_co]):
    """Samples from documents that are packed into sequences; an epoch reads `total` tokens."""

    sequence_length: int
    total: int
    windows_per_epoch: int

    def __init__(self) -> None:
        # A batch may span two epochs, never more.
        self._epoch = lru_cache(maxsize=2)(self.part)

    @abstractmethod
    def part(self, epoch: int, read: ReadTokens | None = None, *, whole: bool = False) -> Part_co:
        """An epoch, or what is left of it after `read`; `whole`: see `ReadTokens.left`."""

    @abstractmethod
    def packing(self) -> PackingFigures:
        """Figures of the first epoch."""

    def sample(self, number: int) -> Window:
        """Sample `number`, in epoch `number // windows_per_epoch`."""
        epoch, index = divmod(number, self.windows_per_epoch)
        return self._epoch(epoch).sample(index)

    def epochs(self, samples: int) -> float:
        """Epochs in the samples below `samples`."""
        return samples / self.windows_per_epoch


class TokenDocuments:
    """Documents of one token file that have at least `min_document_tokens` tokens, and their order in an epoch.

    With `documents` only documents in that range are used.
    """

    def __init__(
        self,
        tokens: TokenFile,
        *,
        sequence_length: int,
        min_document_tokens: int = 0,
        documents: range | None = None,
    ) -> None:
        """Select the documents.

        Raises:
            InputError: no document is long enough, or together they do not fill a window.
        """
        self.tokens = tokens
        within = documents or range(tokens.n_documents)
        self._first = within.start
        self.lengths: Ids = np.diff(tokens.document_offsets[within.start : within.stop + 1])
        self._chosen: Ids = np.flatnonzero(self.lengths >= max(1, min_document_tokens))
        if not len(self._chosen):
            raise InputError(
                f"no document has {min_document_tokens} tokens or more; {describe_lengths(self.lengths)}",
                where=str(tokens.prefix),
                hint="lower min_document_tokens, or pack longer documents",
            )
        self.total = int(self.lengths[self._chosen].sum())
        if self.total <= sequence_length:
            raise InputError(
                f"{self.total} tokens in {len(self._chosen)} documents do not fill one sequence of "
                f"{sequence_length} tokens and its next token",
                where=str(tokens.prefix),
                hint="lower sequence_length or min_document_tokens, or pack more documents",
            )

    def order(self, seed: int, epoch: int) -> Ids:
        """All selected documents in the order of an epoch; indices into `lengths`."""
        return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(self._chosen)

    def read(self, document: int) -> npt.NDArray[np.generic]:
        """Token ids of a document."""
        return self.tokens.document(self._first + document)


class DocumentWindows(PackedSource[Part_co]):
    """Packed documents of one token file; see `TokenDocuments`."""

    def __init__(
        self,
        tokens: TokenFile,
        *,
        sequence_length: int,
        seed: int,
        min_document_tokens: int = 0,
        documents: range | None = None,
        across_documents: bool = True,
    ) -> None:
        """Select and pack the documents; without `across_documents` the first token of a document is no target.

        Raises:
            InputError: as `TokenDocuments`.
        """
        super().__init__()
        self.documents = TokenDocuments(
            tokens,
            sequence_length=sequence_length,
            min_document_tokens=min_document_tokens,
            documents=documents,
        )
        self.sequence_length = sequence_length
        self.seed = seed
        self.across_documents = across_documents
        self.total = self.documents.total
        # Every epoch has as many: their number depends only on the lengths.
        self.windows_per_epoch = self._epoch(0).windows


@dataclass(frozen=True)
class JoinedPart:
    """Windows of some ranges of the joined documents of an epoch: all of them, or those that were not read.

    places: positions of `documents` in the stream, and its end. firsts: positions at which the ranges begin. offsets:
        their places in the stream of the ranges one after the other, and its end; the last token of each is a target
        only, as the one before it is followed by no other range.
    """

    source: TokenWindows
    documents: Ids
    places: Ids
    firsts: Ids
    offsets: Ids

    @classmethod
    def of(cls, source: TokenWindows, documents: Ids, places: Ids, left: ReadTokens) -> JoinedPart:
        """Windows of these ranges, each with the token after it; one of the last token alone has none."""
        sizes = np.minimum(left.ends + 1, source.total) - left.starts
        offsets = np.zeros(int((sizes > 1).sum()) + 1, dtype=np.int64)
        np.cumsum(sizes[sizes > 1], out=offsets[1:])
        return cls(source, documents, places, left.starts[sizes > 1], offsets)

    @property
    def windows(self) -> int:
        return max(0, int(self.offsets[-1]) - 1) // self.source.sequence_length

    @cached_property
    def _stride(self) -> int:
        return coprime_near(self.windows, round(self.windows / GOLDEN_RATIO))

    def read(self, samples: int) -> ReadTokens:
        """Inputs of the samples below `samples`."""
        length = self.source.sequence_length
        starts = np.arange(min(samples, self.windows), dtype=np.int64) * self._stride % max(1, self.windows) * length
        windows = ReadTokens.of(starts, starts + length)
        place, starts, ends = windows.pieces(self.offsets[:-1], self.offsets[1:] - 1)
        shift = (self.firsts - self.offsets[:-1])[place]
        return ReadTokens.of(starts + shift, ends + shift)

    def sample(self, index: int) -> Window:
        """Sample `index`."""
        length = self.source.sequence_length
        start = index * self._stride % self.windows * length
        end = start + length + 1
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        last = int(np.searchsorted(self.offsets, end, side="left"))
        pieces: list[npt.NDArray[np.generic]] = []
        starts: list[Ids] = []
        for number in range(first, last):
            offset = int(self.offsets[number])
            low, high = max(start, offset), min(end, int(self.offsets[number + 1]))
            at = int(self.firsts[number]) - offset
            texts, inside = self._texts(at + low, at + high)
            pieces += texts
            starts.append(inside + (low - start))
        inside = np.concatenate(starts)
        borders = inside[1:] if not self.source.across_documents else self.offsets[first + 1 : last] - start
        trained = None
        if len(borders) or not self.source.across_documents:
            trained = np.ones(length, dtype=np.bool_)
            trained[borders - 1] = False
        return Window(np.concatenate(pieces).astype(np.int64), inside[inside < length], trained)

    def _texts(self, start: int, end: int) -> tuple[list[npt.NDArray[np.generic]], Ids]:
        """Token ids of one range of the stream by document, and where in it they begin."""
        first = int(np.searchsorted(self.places, start, side="right")) - 1
        last = int(np.searchsorted(self.places, end, side="left"))
        texts = []
        for place in range(first, last):
            offset = int(self.places[place])
            document = self.source.documents.read(int(self.documents[place]))
            texts.append(document[max(0, start - offset) : end - offset])
        return texts, np.maximum(self.places[first:last] - start, 0)


class TokenWindows(DocumentWindows[JoinedPart]):
    """Windows of the joined documents; see `TokenDocuments`."""

    def part(self, epoch: int, read: ReadTokens | None = None, *, whole: bool = False) -> JoinedPart:
        """An epoch, or what of it was not read; `whole`: see `ReadTokens.left`."""
        documents = self.documents.order(self.seed, epoch)
        places = np.zeros(len(documents) + 1, dtype=np.int64)
        np.cumsum(self.documents.lengths[documents], out=places[1:])
        if read is None:
            return JoinedPart(self, documents, places, np.zeros(1, dtype=np.int64), places[[0, -1]])
        return JoinedPart.of(self, documents, places, read.left(places[:-1], places[1:], whole=whole))

    def packing(self) -> PackingFigures:
        starts, ends = self._epoch(0).places[:-1], self._epoch(0).places[1:]
        in_one = ends <= starts // self.sequence_length * self.sequence_length + self.sequence_length + 1
        return PackingFigures.of(
            "joined",
            self.sequence_length,
            sequences=self.windows_per_epoch,
            padding=0,
            lengths=ends - starts,
            in_one=in_one,
        )


def coprime_near(count: int, guess: int) -> int:
    """Smallest number >= max(`guess`, 1) that is coprime to `count`."""
    stride = max(1, guess)
    while math.gcd(stride, count) != 1:
        stride += 1
    return stride


def batch(source: WindowSource, first_sample: int, size: int) -> Batch:
    """`size` consecutive samples."""
    return stacked([source.sample(first_sample + slot) for slot in range(size)])


def stacked(samples: Sequence[Window]) -> Batch:
    """A batch of these samples."""
    ids, starts = np.stack([sample.ids for sample in samples]), tuple(sample.starts for sample in samples)
    trained = budgets = None
    if any(sample.trained is not None for sample in samples):
        everything = np.ones(ids.shape[1] - 1, dtype=np.bool_)
        trained = np.stack([everything if sample.trained is None else sample.trained for sample in samples])
    if any(sample.budget is not None for sample in samples):
        length = ids.shape[1] - 1
        budgets = np.array([length if sample.budget is None else sample.budget for sample in samples], dtype=np.int64)
    return Batch(ids, starts, trained, budgets)


def describe_lengths(lengths: npt.NDArray[np.int64]) -> str:
    """Summary of document lengths for an error message."""
    if not len(lengths):
        return "there are no documents"
    longest = int(lengths.max())
    marks: Sequence[int] = [2**power for power in range(6, longest.bit_length())][-4:]
    counts = ", ".join(f"{int((lengths >= mark).sum())} of {mark} or more" for mark in marks)
    return f"of {len(lengths)} documents the longest has {longest}" + (f" ({counts})" if counts else "")


def open_tokens(folder: Path, split: str) -> TokenFile:
    """Token file of one split (`train`, `validation`) of a tokens artifact."""
    return TokenFile(folder / split)
