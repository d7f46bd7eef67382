"""Between the passes: gather what the shards' signatures say, cluster it, and report which document went for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.files import atomic_path
from pipeline.progress import Progress
from stages.data.dedup.clusters import (
    Clusters,
    Indices,
    Records,
    candidates,
    join_band,
    join_exact,
    priorities,
    similarity,
)
from stages.data.dedup.config import DedupConfig
from stages.data.dedup.passes import SignTask


def load_records(signed: Sequence[SignTask], gathered: Path) -> Records:
    """The records of all shards in order; their signatures go to the file `gathered`, which is then mapped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([pq.read_table(task.records) for task in signed]).combine_chunks()
    parts = [np.load(task.signatures, mmap_mode="r") for task in signed]
    shape = (table.num_rows, parts[0].shape[1])
    signatures = np.zeros(shape, dtype=np.uint32)
    if signatures.size:
        signatures = np.lib.format.open_memmap(gathered, mode="w+", dtype=np.uint32, shape=shape)
        first = 0
        for part in parts:
            signatures[first : first + len(part)] = part
            first += len(part)
    digests = np.frombuffer(b"".join(table["digest"].to_pylist()), dtype=np.uint64).reshape(-1, 2)
    return Records(table["id"].to_pylist(), table["length"].to_numpy(), digests, signatures)


def cluster(records: Records, config: DedupConfig, progress: Progress) -> Indices:
    """For every document the one that stays in its place (itself, if it stays), shape [n documents]."""
    clusters = Clusters(priorities(records))
    firsts = join_exact(clusters, records.digests)
    if config.near:
        documents = candidates(records, firsts)
        with progress.task("clustering", total=config.bands, unit="bands") as bar:
            for band in range(config.bands):
                columns = slice(band * config.rows, (band + 1) * config.rows)
                join_band(clusters, records.signatures, documents, columns, config.min_similarity)
                bar.advance()
    return clusters.roots()


def write_duplicates(path: Path, records: Records, roots: Indices) -> dict[str, int]:
    """Write one row a dropped document, ordered by id; returns how many were dropped by reason."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dropped = np.flatnonzero(roots != np.arange(len(roots)))
    kept = roots[dropped]
    exact = (records.digests[dropped] == records.digests[kept]).all(axis=1)
    alike = np.where(exact, 1.0, similarity(records.signatures, dropped, kept) if records.signatures.size else 1.0)
    rows = sorted(
        (records.ids[gone], records.ids[stays], "exact" if same else "near", round(value, 6))
        for gone, stays, same, value in zip(
            dropped.tolist(), kept.tolist(), exact.tolist(), alike.tolist(), strict=True
        )
    )
    columns = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    types = (pa.string(), pa.string(), pa.string(), pa.float64())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    with atomic_path(path) as aside:
        pq.write_table(pa.Table.from_arrays(arrays, names=["dropped_id", "kept_id", "kind", "similarity"]), aside)
    counts = Counter(f"{row[2]}_duplicate" for row in rows)
    return dict(sorted(counts.items()))
