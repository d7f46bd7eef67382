"""Files of a scores artifact: one folder per documents artifact, one Parquet file per shard, one row per document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.faults import raise_fault
from longcat.pipeline.files import atomic_path

if TYPE_CHECKING:
    import pyarrow as pa

STAGE = "data.score"
COLUMNS = ("quality", "diversity")
SCORES_FILE = "train.scores.parquet"

Scores = npt.NDArray[np.float32]


def scores_name(documents: str, shard: int) -> str:
    """Score file of one shard of the documents artifact `documents`."""
    return f"{documents}/scores-{shard:05d}.parquet"


def scores_of(scores: Artifact, documents: Artifact, shards: int) -> list[Path]:
    """Score files of a documents artifact, one per shard.

    Raises:
        InputError: the artifact has no scores, or those of other documents.
    """
    if scores.manifest.stage != STAGE:
        raise InputError(
            f"this was made by {scores.manifest.stage}; scores are made by {STAGE}",
            where=str(scores.path),
            hint="longcat data score --help",
        )
    if not (scores.path / documents.id).is_dir():
        known = ", ".join(sorted(item.name or item.id for item in scores.manifest.inputs["documents"]))
        raise InputError(
            f"these are the scores of {known}, not of {documents.id}",
            where=str(scores.path),
            hint="run longcat data score on the documents that are packed",
        )
    return [scores.file(scores_name(documents.id, number)) for number in range(shards)]


def read_scores(path: Path, columns: tuple[str, ...] = COLUMNS) -> Scores:
    """Columns of a score file, float32 [n documents, n columns].

    Raises:
        IntegrityError: the file cannot be read or lacks the columns.
    """
    table = read_table(path, columns)
    return np.stack([table.column(name).to_numpy() for name in columns], axis=1).astype(np.float32)


def write_token_scores(folder: Path, scores: Scores) -> None:
    """Write the scores [n, 2] of the training documents next to their tokens, in token file order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_path(folder / SCORES_FILE) as aside:
        table = pa.table({name: scores[:, column] for column, name in enumerate(COLUMNS)})
        pq.write_table(table, aside, compression="zstd")


def token_scores(tokens: Artifact, documents: int) -> Scores:
    """Scores [n documents, 2] of the training documents of a tokens artifact: quality and diversity.

    Raises:
        InputError: it was packed without scores.
        IntegrityError: the scores are damaged.
    """
    path = tokens.path / SCORES_FILE
    if not path.is_file():
        raise InputError(
            "its documents have no scores", where=str(tokens.path), hint="longcat data pack with --scores of data score"
        )
    scores = read_scores(path)
    if len(scores) != documents:
        raise IntegrityError(f"{len(scores)} scores for {documents} documents", where=str(path))
    return scores


def read_table(path: Path, columns: tuple[str, ...]) -> pa.Table:
    """Some columns of a Parquet file; raises as `read_scores`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(columns), partitioning=None).select(columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise_fault(error, path)
        raise IntegrityError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from None
