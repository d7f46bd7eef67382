"""Training samples of a tokens artifact: one source, or several in stages or shares.

The stages of a curriculum keep their order: each is a separate, internally permuted stream, and an epoch reads all
windows of the first stage before the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np

from longcat.pipeline.errors import InputError
from longcat.stages.formats.best_fit_windows import BestFitWindows
from longcat.stages.formats.curriculum import read_curriculum
from longcat.stages.formats.packing_figures import PackingFigures
from longcat.stages.formats.read_tokens import ReadTokens
from longcat.stages.formats.training_state import Packing
from longcat.stages.formats.windows import EpochPart, PackedSource, TokenWindows, Window, WindowSource, open_tokens

PARTS = 1_000_000
SOURCES: dict[Packing, type[TokenWindows | BestFitWindows]] = {"joined": TokenWindows, "best_fit": BestFitWindows}


class StagedPart:
    """Parts of all stages in one epoch; the stream of a stage begins after `totals` of the stages before it."""

    def __init__(self, parts: Sequence[EpochPart], totals: Sequence[int]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.windows for part in parts])
        self._totals = totals
        self.windows = int(self._ends[-1])

    def sample(self, index: int) -> Window:
        """Sample `index`."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        part = self._parts[place]
        return part.sample(index - int(self._ends[place]) + part.windows)

    def read(self, samples: int) -> ReadTokens:
        """Tokens of the samples below `samples`."""
        found, offset = ReadTokens.nothing(), 0
        for part, total in zip(self._parts, self._totals, strict=True):
            mine = part.read(min(samples, part.windows))
            found |= ReadTokens.of(mine.starts + offset, mine.ends + offset)
            samples, offset = max(0, samples - part.windows), offset + total
        return found


class StagedWindows(PackedSource[StagedPart]):
    """Windows of a curriculum: an epoch consists of all windows of each stage, in stage order."""

    def __init__(self, stages: Sequence[PackedSource[EpochPart]]) -> None:
        super().__init__()
        self._stages = stages
        self.sequence_length = stages[0].sequence_length
        self._totals = [stage.total for stage in stages]
        self.total = sum(self._totals)
        self.windows_per_epoch = sum(stage.windows_per_epoch for stage in stages)

    def part(self, epoch: int, read: ReadTokens | None = None, *, whole: bool = False) -> StagedPart:
        """An epoch, or what is left of every stage; `whole`: see `ReadTokens.left`."""
        parts, offset = [], 0
        for stage in self._stages:
            end = offset + stage.total
            parts.append(stage.part(epoch, None if read is None else read.between(offset, end), whole=whole))
            offset = end
        return StagedPart(parts, self._totals)

    def packing(self) -> PackingFigures:
        first, *others = (stage.packing() for stage in self._stages)
        return reduce(add, others, first)


class MixedWindows:
    """Samples of two sources, `fraction` of them from the second, spread evenly.

    Sample g is from the second source when `floor((g+1)*fraction) > floor(g*fraction)`, g counted from the sum of
    `starts`, so that a mixture goes on as it would have; samples of each source are used in order, without gaps, from
    `starts` on.
    """

    def __init__(
        self, first: WindowSource, second: WindowSource, fraction: float, starts: tuple[int, int] = (0, 0)
    ) -> None:
        self.first = first
        self.second = second
        self._starts = starts
        # Integer parts per million keep the arithmetic exact for any number of samples.
        self._parts = round(fraction * PARTS)
        # Until all samples of the first source were used.
        self.windows_per_epoch = -(-first.windows_per_epoch * PARTS // max(1, PARTS - self._parts))

    def numbers(self, samples: int) -> tuple[int, int]:
        """Numbers of the next sample of each source after `samples` of the mixture."""
        before = sum(self._starts)
        second = (before + samples) * self._parts // PARTS - before * self._parts // PARTS
        return self._starts[0] + samples - second, self._starts[1] + second

    def sample(self, number: int) -> Window:
        """Sample `number`."""
        first, second = self.numbers(number)
        return self.second.sample(second) if self.numbers(number + 1)[1] > second else self.first.sample(first)

    def epochs(self, samples: int) -> float:
        """Epochs of the first source in the samples below `samples`."""
        return self.first.epochs(self.numbers(samples)[0])


def training_windows(
    folder: Path,
    *,
    sequence_length: int,
    seed: int,
    min_document_tokens: int = 0,
    packing: Packing = "joined",
    across_documents: bool = True,
) -> PackedSource[EpochPart]:
    """Training samples of a tokens artifact, in the order of its curriculum if it has one.

    Raises:
        InputError: the documents, or those of one stage, do not fill a sequence.
        IntegrityError: the token file or the curriculum is damaged.
    """
    tokens = open_tokens(folder, "train")

    def windows(documents: range | None = None) -> PackedSource[EpochPart]:
        return SOURCES[packing](
            tokens,
            sequence_length=sequence_length,
            seed=seed,
            min_document_tokens=min_document_tokens,
            documents=documents,
            across_documents=across_documents,
        )

    stages = read_curriculum(folder, tokens.n_documents)
    if not stages:
        return windows()
    sources, start = [], 0
    for stage in stages:
        documents = range(start, start := start + stage.documents)
        try:
            sources.append(windows(documents))
        except InputError as error:
            raise InputError(f"stage {stage.name!r}: {error.what}", where=error.where, hint=error.hint) from None
    return StagedWindows(sources)
