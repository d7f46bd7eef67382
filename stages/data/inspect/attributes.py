"""Attributes of a filtered artifact, by column: at most one column is in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.faults import raise_fault

PATTERN = "attributes-*.parquet"


class Attributes:
    """Rows of all shards in order, one per input document of the filter.

    Raises:
        InputError: the artifact was not made by the filter.
        IntegrityError: a file of attributes cannot be read.
    """

    def __init__(self, artifact: Artifact) -> None:
        if artifact.manifest.stage != "data.filter":
            raise InputError(
                f"this artifact was made by {artifact.manifest.stage}, not by data.filter",
                where=str(artifact.path),
                hint="pass a filtered artifact: longcat artifacts list --kind documents",
            )
        self.paths = sorted(artifact.path.glob(PATTERN))
        if not self.paths:
            raise IntegrityError("the artifact has no attributes files", where=str(artifact.path))
        self.rows = [_rows(path) for path in self.paths]

    def __len__(self) -> int:
        return sum(self.rows)

    def values(self, name: str) -> npt.NDArray[np.float64]:
        """A measured value for every row; NaN if not measured."""
        columns = [_column(path, name) for path in self.paths]
        return np.concatenate([np.array(column.to_numpy(), dtype=np.float64) for column in columns])

    def texts(self, name: str) -> npt.NDArray[np.object_]:
        """`id`, `kind`, `language` or `reason` of every row; None if missing."""
        return np.array([value for path in self.paths for value in _column(path, name).to_pylist()], dtype=object)

    def identifiers(self, shard: int) -> list[str]:
        """Ids of the documents of a shard."""
        found: list[str] = _column(self.paths[shard], "id").to_pylist()
        return found

    def place(self, row: int) -> tuple[int, int]:
        """Shard and line of a row, both counted from 0."""
        ends = np.cumsum(self.rows)
        shard = int(np.searchsorted(ends, row, side="right"))
        return shard, row - int(ends[shard]) + self.rows[shard]


def _rows(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise_fault(error, path)
        raise IntegrityError(f"not a Parquet file: {str(error).splitlines()[0]}", where=str(path)) from None


def _column(path: Path, name: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=[name]).column(name)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise_fault(error, path)
        raise IntegrityError(
            f"no column {name}: {str(error).splitlines()[0]}",
            where=str(path),
            hint="an older version of the filter made it; run longcat data filter again",
        ) from None
