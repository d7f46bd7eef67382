"""The figures of a run: metrics.jsonl, the validation loss, and the loss that knowing only word counts would give."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import canonical_json
from longcat.pipeline.tokens import TokenFile
from longcat.stages.train.loader import IGNORED, Ids

# Enough for any unigram distribution, and quick to count.
UNIGRAM_TOKENS = 1 << 28
CHUNK_TOKENS = 1 << 22


class MetricsFile:
    """metrics.jsonl: one line an optimizer step, of values that do not depend on the clock.

    A restart cuts it back to where the resumed checkpoint stood, so it comes out as if nothing had happened.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """Open the file; of several processes one `writes`, for the others every call but `matches` does nothing."""
        self.path = path
        self._writes = writes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab")

    def append(self, record: dict[str, Any]) -> None:
        if self._writes:
            self._stream.write(canonical_json(record) + b"\n")
            self._stream.flush()

    def mark(self) -> dict[str, Any]:
        """Make all lines durable; what a checkpoint stores to find this place again."""
        if not self._writes:
            return {}
        os.fsync(self._stream.fileno())
        return _mark_of(self.path.read_bytes())

    def matches(self, mark: dict[str, Any]) -> bool:
        """Whether the file still begins with the lines that were there at `mark`."""
        with self.path.open("rb") as stream:
            return _mark_of(stream.read(mark["bytes"])) == mark

    def cut(self, mark: dict[str, Any] | None) -> None:
        """Drop all lines after `mark`, or all lines."""
        if self._writes:
            self._stream.truncate(mark["bytes"] if mark else 0)

    def close(self) -> None:
        self._stream.close()


def _mark_of(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of a metrics.jsonl.

    Raises:
        IntegrityError: a line is not JSON; names it.
    """
    records = []
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                records.append(orjson.loads(line))
            except ValueError:
                raise IntegrityError("not a line of JSON", where=f"{path}:{number}") from None
    return records


def unigram_loss(train: TokenFile, targets: Ids, vocab_size: int) -> float:
    """Mean cross entropy in nats of `targets` when the next token is drawn by how often it occurs in training.

    Counts get one added each, so that a token never seen has a probability. At most 2**28 tokens from the start of the
    file are counted. A model that has learnt anything from context lies below.
    """
    counts: npt.NDArray[np.int64] = np.ones(vocab_size, dtype=np.int64)
    for start in range(0, min(train.total_tokens, UNIGRAM_TOKENS), CHUNK_TOKENS):
        counts += np.bincount(train.tokens[start : start + CHUNK_TOKENS], minlength=vocab_size)
    log_p = np.log(counts) - math.log(int(counts.sum()))
    return -float(log_p[targets[targets != IGNORED]].mean())
