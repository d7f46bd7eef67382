"""Which document of a group stays, and the report of those that go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longcat.pipeline.files import atomic_path
from longcat.stages.data.dedup.clusters import Indices
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.match import PAIRS_A_STEP, Flags, similarity
from longcat.stages.data.dedup.runs import Runs

if TYPE_CHECKING:
    import pyarrow as pa


def keepers(runs: Runs, roots: Indices) -> Indices:
    """For every document the one that stays in its place (itself, if it stays), [n documents].

    Of a group stays the one of the highest quality, then the longest text, then the smallest id, then the smallest
    digest: nothing that the order of the shards or the number of workers could move.
    """
    import pyarrow as pa

    stays_for = np.arange(len(roots))
    members = _grouped(roots)
    if not len(members):
        return stays_for
    digests = runs.gather("digests", members)
    records = runs.gather_records(members)
    for name, column in (("root", roots[members]), ("first", digests[:, 0]), ("second", digests[:, 1])):
        records = records.append_column(name, pa.array(column))
    falling = [("quality", "descending"), ("length", "descending")]
    rising = [(name, "ascending") for name in ("id", "first", "second")]
    ranked = _ranked(records, [("root", "ascending"), *falling, *rising])
    ordered = roots[members][ranked]
    starts = np.ones(len(ordered), dtype=np.bool_)
    starts[1:] = ordered[1:] != ordered[:-1]
    stays_for[members[ranked]] = members[ranked][starts][np.cumsum(starts) - 1]
    return stays_for


def write_duplicates(path: Path, runs: Runs, stays_for: Indices, config: DedupConfig) -> dict[str, int]:
    """Write one row a dropped document, ordered by id; returns how many were dropped by reason."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    dropped = np.flatnonzero(stays_for != np.arange(len(stays_for)))
    kept = stays_for[dropped]
    named = np.unique(np.concatenate([dropped, kept]))
    names = runs.gather_records(named)["id"] if len(named) else pa.array([], pa.string())
    exact, alike = _compared(runs, np.stack([dropped, kept], axis=1), config)
    table = pa.table(
        {
            "dropped_id": names.take(pa.array(np.searchsorted(named, dropped))),
            "kept_id": names.take(pa.array(np.searchsorted(named, kept))),
            "kind": pc.if_else(pa.array(exact), "exact", "near"),
            "similarity": pa.array(alike.round(6)),
        }
    )
    table = table.take(pa.array(_ranked(table, [(name, "ascending") for name in table.column_names])))
    with atomic_path(path) as aside:
        pq.write_table(table, aside)
    counts = {"exact_duplicate": int(exact.sum()), "near_duplicate": int((~exact).sum())}
    return {reason: count for reason, count in counts.items() if count}


def _compared(runs: Runs, pairs: Indices, config: DedupConfig) -> tuple[Flags, npt.NDArray[np.float64]]:
    """Whether the two of each pair, [n, 2], have the same text, and how similar they are."""
    exact = np.ones(len(pairs), dtype=np.bool_)
    alike = np.ones(len(pairs), dtype=np.float64)
    for at in range(0, len(pairs), PAIRS_A_STEP):
        step = slice(at, at + PAIRS_A_STEP)
        digests = runs.gather("digests", pairs[step].ravel()).reshape(-1, 2, 2)
        exact[step] = (digests[:, 0] == digests[:, 1]).all(axis=1)
    if not exact.all():
        alike[~exact] = similarity(runs, pairs[~exact], config)
    return exact, alike


def _grouped(roots: Indices) -> Indices:
    """The documents that are not alone in their cluster, rising."""
    below = np.flatnonzero(roots != np.arange(len(roots)))
    return np.union1d(below, roots[below])


def _ranked(table: pa.Table, by: list[tuple[str, str]]) -> Indices:
    """The rows of a table in the order of some columns."""
    import pyarrow.compute as pc

    return np.asarray(pc.sort_indices(table, sort_keys=by), dtype=np.int64)
