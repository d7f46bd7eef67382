"""Selection of the kept document of each group, and the report of dropped ones."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Earlier:
    """Documents of earlier corpora: those from index `first` on, by shard: id of its artifact and number of documents.

    They are never dropped or written.
    """

    first: int
    shards: tuple[tuple[str, int], ...] = ()

    def artifacts(self, documents: Indices) -> pa.Array:
        """Artifact of each document; null for those of the inputs."""
        import pyarrow as pa

        ends = self.first + np.cumsum([size for _, size in self.shards], dtype=np.int64)
        shards = np.searchsorted(ends, documents, side="right")
        names = pa.array([artifact for artifact, _ in self.shards], pa.string())
        return names.take(pa.array(shards, mask=documents < self.first))


def keepers(runs: Runs, roots: Indices, earlier: Earlier) -> Indices:
    """For every document the kept one of its group, [n documents].

    Kept is one of an earlier corpus if there is any, of these the one of highest quality, then longest text, then
    smallest id, then smallest digest, independent of shard order and number of workers.
    """
    import pyarrow as pa

    stays_for = np.arange(len(roots))
    members = _grouped(roots)
    if not len(members):
        return stays_for
    digests = runs.gather("digests", members)
    records = runs.gather_records(members)
    columns = {
        "root": roots[members],
        "earlier": (members >= earlier.first).astype(np.int8),
        "first": digests[:, 0],
        "second": digests[:, 1],
    }
    for name, column in columns.items():
        records = records.append_column(name, pa.array(column))
    falling = [("earlier", "descending"), ("quality", "descending"), ("length", "descending")]
    rising = [(name, "ascending") for name in ("id", "first", "second")]
    ranked = _ranked(records, [("root", "ascending"), *falling, *rising])
    ordered = roots[members][ranked]
    starts = np.ones(len(ordered), dtype=np.bool_)
    starts[1:] = ordered[1:] != ordered[:-1]
    stays_for[members[ranked]] = members[ranked][starts][np.cumsum(starts) - 1]
    stays_for[earlier.first :] = np.arange(earlier.first, len(roots))
    return stays_for


def write_duplicates(
    path: Path, runs: Runs, stays_for: Indices, earlier: Earlier, config: DedupConfig
) -> dict[str, int]:
    """Write one row per dropped document, ordered by id; returns counts by reason."""
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
    if earlier.shards:
        table = table.append_column("against", earlier.artifacts(kept))
    table = table.take(pa.array(_ranked(table, [(name, "ascending") for name in table.column_names])))
    with atomic_path(path) as aside:
        pq.write_table(table, aside)
    known = kept >= earlier.first
    counts = {
        f"{kind}_duplicate{of}": int((flags & where).sum())
        for of, where in (("", ~known), ("_of_against", known))
        for kind, flags in (("exact", exact), ("near", ~exact))
    }
    return {reason: count for reason, count in counts.items() if count}


def _compared(runs: Runs, pairs: Indices, config: DedupConfig) -> tuple[Flags, npt.NDArray[np.float64]]:
    """Whether each pair, [n, 2], has equal texts, and its similarity."""
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
    """Documents in clusters of two or more, ascending."""
    below = np.flatnonzero(roots != np.arange(len(roots)))
    return np.union1d(below, roots[below])


def _ranked(table: pa.Table, by: list[tuple[str, str]]) -> Indices:
    """Rows of a table sorted by columns."""
    import pyarrow.compute as pc

    return np.asarray(pc.sort_indices(table, sort_keys=by), dtype=np.int64)
