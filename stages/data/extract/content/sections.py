"""Features of a block's place on the page: running text around it, the part that holds most of it, headings."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.stages.data.extract.content.block import Blocks
from longcat.stages.data.extract.content.columns import Bools, Floats, Integers, scaled_log, side_by_side
from longcat.stages.data.extract.content.phrases import TOPICS

RUNNING_CHARACTERS = 80
CORE_SHARES = (0.5, 0.8, 0.95)


def section_features(
    page: Blocks,
    depths: Integers,
    characters: Floats,
    links: Floats,
    punctuation: Floats,
    headings: Integers,
    flags: Floats,
) -> Floats:
    """Shape [blocks, features]; `headings` is 1 to 6 for the level of a heading, else 0.

    `flags` are the topics and dates that the texts mention, [blocks, topics + 1].
    """
    count = len(characters)
    running = (characters >= RUNNING_CHARACTERS) & (links < characters * 0.3) & (punctuation > 0) & (headings == 0)
    prose = characters * running
    total = max(float(prose.sum()), 1.0)
    sums = np.concatenate([[0], np.cumsum(prose, dtype=np.float64)])
    positions = np.arange(count)
    columns: list[Any] = [running, sums[:-1] / total, 1 - sums[1:] / total]
    columns += _distances(running, positions, characters)
    columns += _cores(page, depths, sums, total)
    columns += _under(flags, headings, positions, running)
    return side_by_side(columns)


def _distances(running: Bools, positions: Integers, characters: Floats) -> list[Any]:
    """Blocks and characters since the last running text, and until the next."""
    count = len(positions)
    last = np.maximum.accumulate(np.where(running, positions, -1))
    following = np.minimum.accumulate(np.where(running, positions, count)[::-1])[::-1]
    ends = np.cumsum(characters, dtype=np.float64)
    starts = ends - characters
    since = starts - np.where(last >= 0, ends[last], 0)
    until = np.where(following < count, starts[np.minimum(following, count - 1)], ends[-1]) - ends
    return [
        scaled_log(np.where(last >= 0, positions - last, count)),
        scaled_log(np.where(following < count, following - positions, count)), scaled_log(np.maximum(since, 0)),
        scaled_log(np.maximum(until, 0)), last >= 0, following < count,
    ]  # fmt: skip


def _cores(page: Blocks, depths: Integers, sums: npt.NDArray[np.float64], total: float) -> list[Any]:
    """For each of `CORE_SHARES`: is a block in the smallest element with that share of running text, how far off."""
    starts, ends = np.array(page.starts, np.int64), np.array(page.ends, np.int64)
    held = sums[ends] - sums[starts]
    columns: list[Any] = []
    for share in CORE_SHARES:
        holding = np.flatnonzero(held >= share * total)
        core = int(holding[np.argmax(depths[holding])]) if len(holding) else 0
        inside = np.zeros(len(page.blocks), np.float32)
        inside[starts[core] : ends[core]] = 1
        distance, element = np.zeros(len(page.blocks), np.float32), core
        # The elements around the core, innermost first: each adds a step for the blocks outside of it.
        while element >= 0:
            distance += 1
            distance[starts[element] : ends[element]] -= 1
            element = page.parents[element]
        own = depths[[block.element for block in page.blocks]] - depths[core]
        columns += [inside, distance / 8, np.clip(own, -8, 8) / 8]
    return columns


def _under(flags: Floats, headings: Integers, positions: Integers, running: Bools) -> list[Any]:
    """Topics of the nearest heading above, its distance, its level, and running text since."""
    count = len(positions)
    nearest = np.maximum.accumulate(np.where(headings > 0, positions, -1))
    has = nearest >= 0
    index = np.maximum(nearest, 0)
    of_heading = flags[index] * has[:, None]
    counts = np.concatenate([[0], np.cumsum(running)])
    # A topic mentioned by any short block, heading or not, with no running text since.
    recent = []
    for column in range(len(TOPICS)):
        said = np.maximum.accumulate(np.where(flags[:, column] > 0, positions, -1))
        recent.append(np.where(said >= 0, np.exp(-(positions - said) / 6.0), 0))
    return [
        *of_heading.T, *recent,
        scaled_log(np.where(has, positions - nearest, count)), np.where(has, headings[index], 0) / 6,
        scaled_log(np.where(has, counts[positions] - counts[index], 0)),
    ]  # fmt: skip
