"""Matching of document pairs: one key range of one section at a time, merged over all runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.files import atomic_path
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.runs import EXACT, Indices, Keys, Runs

# In a bucket of up to this many documents all pairs are compared. In a larger one all are compared with an anchor,
# those that do not match with another anchor among them, and so on, up to this many times: this bounds the work for a
# band shared by thousands of dissimilar documents; similar pairs missed here meet in other bands.
SMALL_BUCKET = 16
MAX_ANCHORS = 64
PAIRS_A_STEP = 1 << 15

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MatchTask:
    """Task: write matches in key range `part` of `parts` of a section to `pairs` (int64, two per pair).

    In bands only documents with true in `firsts` (.npy of bool) are compared.
    """

    folder: Path
    section: int
    part: int
    parts: int
    pairs: Path
    firsts: Path
    config: DedupConfig


def match_part(task: MatchTask) -> dict[str, Any]:
    """Find the matching pairs of one range of keys; returns the number of compared and matched pairs."""
    runs = Runs.load(task.folder)
    keys, documents = runs.read_part(task.section, task.part, task.parts)
    if task.section != EXACT:
        first = np.load(task.firsts, mmap_mode="r")[documents]
        keys, documents = keys[first], documents[first]
    matcher = _Matcher(runs, None if task.section == EXACT else task.config)
    compared = matched = 0
    with atomic_path(task.pairs) as aside, aside.open("wb") as stream:
        for pairs, alike in matcher.compare(*_buckets(keys, documents)):
            stream.write(pairs[alike].tobytes())
            compared += len(pairs)
            matched += int(alike.sum())
    return {"compared": compared, "matched": matched}


def read_pairs(path: Path) -> Iterator[Indices]:
    """Pairs of one file, [n, 2], in bounded batches."""
    with path.open("rb") as stream:
        while data := stream.read(PAIRS_A_STEP * 16):
            yield np.frombuffer(data, dtype=np.int64).reshape(-1, 2)


def _buckets(keys: Keys, documents: Indices) -> tuple[Indices, Indices]:
    """Documents that share a key, and their bucket numbers, ascending."""
    same = keys[1:] == keys[:-1]
    shared = np.zeros(len(keys), dtype=np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    starts = np.ones(len(keys), dtype=np.bool_)
    starts[1:] = ~same
    return documents[shared], (np.cumsum(starts) - 1)[shared]


class _Matcher:
    """Compares documents of a bucket; without a configuration, by their digests."""

    def __init__(self, runs: Runs, config: DedupConfig | None) -> None:
        self._runs = runs
        self._config = config

    def compare(self, documents: Indices, buckets: Indices) -> Iterator[tuple[Indices, Flags]]:
        """Pairs [n, 2] in bounded batches, with a mask of matches."""
        if not len(documents):
            return
        _, sizes = np.unique(buckets, return_counts=True)
        # Equal texts need only one comparison each with an anchor.
        small = np.repeat(sizes <= (SMALL_BUCKET if self._config else 0), sizes)
        yield from self._compare_all(documents[small], buckets[small])
        yield from self._compare_with_anchors(documents[~small], buckets[~small])

    def _compare_all(self, documents: Indices, buckets: Indices) -> Iterator[tuple[Indices, Flags]]:
        for distance in range(1, SMALL_BUCKET):
            at = np.flatnonzero(buckets[distance:] == buckets[:-distance])
            if not len(at):
                return
            yield from self._steps(np.stack([documents[at], documents[at + distance]], axis=1))

    def _compare_with_anchors(self, documents: Indices, buckets: Indices) -> Iterator[tuple[Indices, Flags]]:
        if not len(documents):
            return
        # By digest, so that anchors do not depend on shard order.
        digests = self._runs.gather("digests", documents)
        order = np.lexsort((digests[:, 1], digests[:, 0], buckets))
        documents, buckets = documents[order], buckets[order]
        for _ in range(MAX_ANCHORS):
            starts = np.ones(len(buckets), dtype=np.bool_)
            starts[1:] = buckets[1:] != buckets[:-1]
            anchors = documents[starts][(np.cumsum(starts) - 1)[~starts]]
            documents, buckets = documents[~starts], buckets[~starts]
            if not len(documents):
                return
            alike = []
            for pairs, flags in self._steps(np.stack([anchors, documents], axis=1)):
                yield pairs, flags
                alike.append(flags)
            unlike = ~np.concatenate(alike)
            documents, buckets = documents[unlike], buckets[unlike]

    def _steps(self, pairs: Indices) -> Iterator[tuple[Indices, Flags]]:
        for at in range(0, len(pairs), PAIRS_A_STEP):
            step = pairs[at : at + PAIRS_A_STEP]
            yield step, self._alike(step)

    def _alike(self, pairs: Indices) -> Flags:
        if self._config is None:
            digests = self._runs.gather("digests", pairs.ravel()).reshape(-1, 2, 2)
            return np.asarray((digests[:, 0] == digests[:, 1]).all(axis=1))
        if self._config.min_similarity is None:
            return np.ones(len(pairs), dtype=np.bool_)
        return similarity(self._runs, pairs, self._config) >= self._config.min_similarity


def similarity(runs: Runs, pairs: Indices, config: DedupConfig) -> npt.NDArray[np.float64]:
    """Jaccard similarity of pairs [n, 2] of documents, from all n-grams or as the fraction of equal hashes, [n]."""
    found = np.empty(len(pairs), dtype=np.float64)
    for at in range(0, len(pairs), PAIRS_A_STEP):
        step = pairs[at : at + PAIRS_A_STEP]
        found[at : at + len(step)] = (_exact_jaccard if config.exact_jaccard else _estimated_jaccard)(runs, step)
    return found


def _estimated_jaccard(runs: Runs, pairs: Indices) -> npt.NDArray[np.float64]:
    signatures = runs.gather("signatures", pairs.ravel())
    return np.asarray((signatures[::2] == signatures[1::2]).mean(axis=1))


def _exact_jaccard(runs: Runs, pairs: Indices) -> npt.NDArray[np.float64]:
    found = np.empty(len(pairs), dtype=np.float64)
    # All n-grams of the batch are in memory, hence smaller batches.
    for at in range(0, len(pairs), 256):
        step = pairs[at : at + 256]
        ngrams = runs.gather_ngrams(np.unique(step))
        for number, (one, other) in enumerate(step.tolist(), start=at):
            first, second = ngrams[one], ngrams[other]
            common = len(np.intersect1d(first, second, assume_unique=True))
            found[number] = common / max(len(first) + len(second) - common, 1)
    return found
