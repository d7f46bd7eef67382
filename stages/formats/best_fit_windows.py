"""Token windows in which no document is cut that fits into one, as a pure function of the sample number.

A document of n <= L + 1 tokens lies in one window of L inputs and their next tokens. A longer one is cut into
windows that begin at its tokens 0, L, 2L, ... and a rest, so every token but its first is a target exactly once; the
rests are packed like short documents. What is empty at the end of a window is filled with a repetition of the window,
which is no target and a document of its own: text, so that the load of the experts is not that of one token.

Documents are permuted in each epoch before they are packed, and then the windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longcat.stages.formats.best_fit import fill
from longcat.stages.formats.packing_figures import PackingFigures
from longcat.stages.formats.read_tokens import ReadTokens
from longcat.stages.formats.windows import DocumentWindows, Ids, Window

# Distinguishes the permutation of windows from that of documents.
_WINDOWS = 1


@dataclass(frozen=True)
class BestFitPart:
    """Pieces of documents in the order of windows: document, first token in it, tokens.

    Window w has the pieces from `bounds[w]` to `bounds[w + 1]`; `places` are the positions of all documents in the
    stream of the epoch.
    """

    source: BestFitWindows
    documents: Ids
    starts: Ids
    sizes: Ids
    bounds: Ids
    places: Ids

    @property
    def windows(self) -> int:
        return len(self.bounds) - 1

    def read(self, samples: int) -> ReadTokens:
        """Inputs of the samples below `samples`: a piece with a token after it has that as a target only."""
        pieces = slice(0, int(self.bounds[min(samples, self.windows)]))
        documents, ends = self.documents[pieces], self.starts[pieces] + self.sizes[pieces]
        ends = np.where(ends < self.source.documents.lengths[documents], ends - 1, ends)
        places = self.places[documents]
        return ReadTokens.of(places + self.starts[pieces], places + ends)

    def sample(self, index: int) -> Window:
        """Sample `index`."""
        pieces = slice(*self.bounds[index : index + 2].tolist())
        starts, sizes = self.starts[pieces], self.sizes[pieces]
        ids = [
            self.source.documents.read(document)[start : start + size]
            for document, start, size in zip(
                self.documents[pieces].tolist(), starts.tolist(), sizes.tolist(), strict=True
            )
        ]
        length, ends = self.source.sequence_length, np.cumsum(sizes)
        filled, borders = int(ends[-1]), ends[:-1]
        trained = np.arange(1, length + 1) < filled
        # The first token of a document is a target after the end of another, that of a rest only in its own document.
        cut = starts + sizes < self.source.documents.lengths[self.documents[pieces]]
        untrained = borders if not self.source.across_documents else borders[(starts[1:] > 0) | cut[:-1]]
        trained[untrained - 1] = False
        inside: Ids = np.concatenate([[0], ends])
        return Window(np.resize(np.concatenate(ids).astype(np.int64), length + 1), inside[inside < length], trained)


class BestFitWindows(DocumentWindows[BestFitPart]):
    """Windows of packed documents; see `TokenDocuments`."""

    def part(self, epoch: int, read: ReadTokens | None = None, *, whole: bool = False) -> BestFitPart:
        """An epoch, or what of its documents was not read, packed again; `whole`: see `ReadTokens.left`."""
        order = self.documents.order(self.seed, epoch)
        lengths = self.documents.lengths[order]
        ends = np.cumsum(lengths)
        places = np.zeros(len(self.documents.lengths), dtype=np.int64)
        places[order] = ends - lengths
        firsts = np.zeros(len(order), dtype=np.int64)
        if read is not None:
            left = read.left(ends - lengths, ends, whole=whole)
            order, firsts, lengths = _unread(left, order, ends - lengths, ends)
        place, starts, sizes = _cut(lengths, self.sequence_length)
        bins = fill(sizes, self.sequence_length + 1)
        count = int(bins.max(initial=-1)) + 1
        windows = np.random.Generator(np.random.PCG64([self.seed, epoch, _WINDOWS])).permutation(count)[bins]
        by_window = np.argsort(windows, kind="stable")
        bounds = np.zeros(count + 1, dtype=np.int64)
        np.cumsum(np.bincount(windows, minlength=count), out=bounds[1:])
        starts += firsts[place]
        return BestFitPart(self, order[place[by_window]], starts[by_window], sizes[by_window], bounds, places)

    def packing(self) -> PackingFigures:
        epoch = self._epoch(0)
        pieces = np.bincount(epoch.documents, minlength=len(self.documents.lengths))
        used = np.flatnonzero(pieces)
        filled = np.add.reduceat(epoch.sizes, epoch.bounds[:-1])
        return PackingFigures.of(
            "best_fit",
            self.sequence_length,
            sequences=self.windows_per_epoch,
            padding=int((self.sequence_length + 1 - filled).sum()),
            lengths=self.documents.lengths[used],
            in_one=pieces[used] == 1,
        )


def _unread(left: ReadTokens, documents: Ids, starts: Ids, ends: Ids) -> tuple[Ids, Ids, Ids]:
    """Pieces of what is left of documents at these positions: document, first token in it, tokens.

    A piece has the token after it, if its document has one. A document's last token alone would have no target.
    """
    place, first, end = left.pieces(starts, ends)
    sizes = np.minimum(end + 1, ends[place]) - first
    kept = (sizes > 1) | (first == starts[place])
    return documents[place[kept]], (first - starts[place])[kept], sizes[kept]


def _cut(lengths: Ids, length: int) -> tuple[Ids, Ids, Ids]:
    """Pieces of documents of these lengths, in their order: index of the document, first token in it, tokens."""
    whole = (lengths - 1) // length
    has_rest = (whole == 0) | ((lengths - 1) % length > 0)
    pieces = whole + has_rest
    place = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(place)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = number * length
    return place, starts, np.minimum(length + 1, lengths[place] - starts)
