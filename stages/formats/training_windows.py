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
from longcat.stages.formats.training_state import Packing
from longcat.stages.formats.windows import PackedSource, TokenWindows, Window, WindowSource, open_tokens

PARTS = 1_000_000
SOURCES: dict[Packing, type[TokenWindows | BestFitWindows]] = {"joined": TokenWindows, "best_fit": BestFitWindows}


class StagedWindows:
    """Windows of a curriculum: an epoch consists of all windows of each stage, in stage order."""

    def __init__(self, stages: Sequence[PackedSource]) -> None:
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

    def packing(self) -> PackingFigures:
        """Figures of the first epoch, of all stages."""
        first, *others = (stage.packing() for stage in self._stages)
        return reduce(add, others, first)


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


def training_windows(
    folder: Path,
    *,
    sequence_length: int,
    seed: int,
    min_document_tokens: int = 0,
    packing: Packing = "joined",
    across_documents: bool = True,
) -> PackedSource:
    """Training samples of a tokens artifact, in the order of its curriculum if it has one.

    Raises:
        InputError: the documents, or those of one stage, do not fill a sequence.
        IntegrityError: the token file or the curriculum is damaged.
    """
    tokens = open_tokens(folder, "train")

    def windows(documents: range | None = None) -> PackedSource:
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
