"""Scratch files between passes: document data in runs sorted in memory.

A run is a range of consecutive documents of one shard. Its files: `digests` [n, 2] and `signatures` [n, num_perm]
by document; `exact` and `band` keys, each section sorted, with the rows of their documents;
`records` (parquet) with id, length and quality; optionally all `ngrams` of each document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from longcat.pipeline.files import atomic_path, atomic_write, canonical_json, read_json

if TYPE_CHECKING:
    import pyarrow as pa

EXACT = -1
KEY_SPACE = 1 << 64
# Key, document, sorting permutation and sorted copies, with a margin.
BYTES_AN_ENTRY = 64

Indices = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class SortedRun:
    """`documents` consecutive documents, `signed` of which have n-grams."""

    name: str
    documents: int
    signed: int


@dataclass(frozen=True)
class Runs:
    """All runs of a folder in document order; document indices are global."""

    folder: Path
    runs: tuple[SortedRun, ...]

    @classmethod
    def load(cls, folder: Path) -> Runs:
        """Read the list written by `save`."""
        return cls(folder, tuple(SortedRun(**fields) for fields in read_json(folder / "runs.json")))

    def save(self) -> None:
        atomic_write(self.folder / "runs.json", canonical_json([asdict(run) for run in self.runs]))

    @property
    def documents(self) -> int:
        return sum(run.documents for run in self.runs)

    def entries(self, section: int) -> int:
        """Number of documents with a key in a section (`EXACT` or a band)."""
        return sum(run.documents if section == EXACT else run.signed for run in self.runs)

    def parts(self, section: int, memory_bytes: int) -> int:
        """Number of key ranges of a section so that each can be sorted in memory."""
        return max(1, -(-self.entries(section) * BYTES_AN_ENTRY // memory_bytes))

    def read_part(self, section: int, part: int, parts: int) -> tuple[Keys, Indices]:
        """Keys and documents of one range of keys in one section, of all runs, sorted by key."""
        low, high = KEY_SPACE * part // parts, KEY_SPACE * (part + 1) // parts - 1
        keys, documents = [], []
        for first, run in self._placed():
            if not (run.documents if section == EXACT else run.signed):
                continue
            run_keys, rows = self._section(run, section)
            start = np.searchsorted(run_keys, np.uint64(low))
            end = np.searchsorted(run_keys, np.uint64(high), side="right")
            keys.append(np.array(run_keys[start:end]))
            documents.append(rows[start:end].astype(np.int64) + first)
        if not keys:
            return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
        all_keys, all_documents = np.concatenate(keys), np.concatenate(documents)
        order = np.argsort(all_keys, kind="stable")
        return all_keys[order], all_documents[order]

    def gather(self, kind: Literal["digests", "signatures"], documents: Indices) -> npt.NDArray[Any]:
        """Rows of `digests` or `signatures` for documents in any order, without loading whole files."""
        wanted, back = np.unique(documents, return_inverse=True)
        found = [load_array(self.folder, run.name, kind)[rows] for run, rows in self._split(wanted)]
        return np.concatenate(found)[back]

    def gather_ngrams(self, documents: Indices) -> dict[int, npt.NDArray[np.uint32]]:
        """Sorted distinct n-gram hashes of each document."""
        found = {}
        for first, run in self._placed():
            rows = documents[(documents >= first) & (documents < first + run.documents)] - first
            if not len(rows):
                continue
            ends = load_array(self.folder, run.name, "ngram-ends")
            hashes = load_array(self.folder, run.name, "ngrams")
            for row in rows.tolist():
                found[row + first] = np.array(hashes[ends[row - 1] if row else 0 : ends[row]])
        return found

    def gather_records(self, documents: Indices) -> pa.Table:
        """Records of documents, given in ascending order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = [
            pq.read_table(file_of(self.folder, run.name, "records")).take(rows) for run, rows in self._split(documents)
        ]
        return pa.concat_tables(found).combine_chunks()

    def _placed(self) -> Iterator[tuple[int, SortedRun]]:
        first = 0
        for run in self.runs:
            yield first, run
            first += run.documents

    def _split(self, documents: Indices) -> Iterator[tuple[SortedRun, Indices]]:
        """Documents in ascending order, as rows of their runs."""
        for first, run in self._placed():
            start, end = np.searchsorted(documents, [first, first + run.documents])
            if start < end:
                yield run, documents[start:end] - first

    def _section(self, run: SortedRun, section: int) -> tuple[Keys, npt.NDArray[np.uint32]]:
        if section == EXACT:
            return load_array(self.folder, run.name, "exact-keys"), load_array(self.folder, run.name, "exact-rows")
        keys, rows = (load_array(self.folder, run.name, kind) for kind in ("band-keys", "band-rows"))
        return keys[section], rows[section]


def file_of(folder: Path, name: str, kind: str) -> Path:
    """Path of one file of a run."""
    return folder / f"run-{name}.{kind}{'.parquet' if kind == 'records' else '.npy'}"


def load_array(folder: Path, name: str, kind: str) -> npt.NDArray[Any]:
    """One memory-mapped array of a run."""
    path = file_of(folder, name, kind)
    # An empty file cannot be mapped.
    return np.load(path, mmap_mode="r") if path.stat().st_size > _HEADER_BYTES else np.load(path)


_HEADER_BYTES = 128


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an .npy file atomically."""
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def in_key_order(keys: Keys, rows: Sequence[int] | Indices) -> tuple[Keys, npt.NDArray[np.uint32]]:
    """One section for a run's files: sorted keys, and their rows."""
    order = np.argsort(keys, kind="stable")
    return keys[order], np.asarray(rows, dtype=np.uint32)[order]
