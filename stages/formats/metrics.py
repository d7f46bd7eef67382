"""Metrics of a run: metrics.jsonl, validation loss, and unigram loss."""

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
from longcat.stages.formats.windows import IGNORED, Ids

# Enough for a unigram distribution, and fast to count.
UNIGRAM_TOKENS = 1 << 28
CHUNK_TOKENS = 1 << 22


class MetricsFile:
    """metrics.jsonl: one line per optimizer step, with values that do not depend on the clock.

    A restart truncates it to the position of the resumed checkpoint, so that it equals an uninterrupted run's.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        """Open the file; one of several processes `writes`, for the others every method except `matches` is a no-op."""
        self.path = path
        self._writes = writes
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("ab")

    def append(self, record: dict[str, Any]) -> None:
        if self._writes:
            self._stream.write(canonical_json(record) + b"\n")
            self._stream.flush()

    def mark(self) -> dict[str, Any]:
        """Flush all lines to disk; returns the mark that a checkpoint stores."""
        if not self._writes:
            return {}
        os.fsync(self._stream.fileno())
        return _mark_of(self.path.read_bytes())

    def matches(self, mark: dict[str, Any]) -> bool:
        """Whether the file still starts with the lines present at `mark`."""
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


def read_metrics(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """Read the records of a metrics.jsonl, all or up to a step; lines after it may be written meanwhile.

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
            if last_step is not None and records[-1]["step"] >= last_step:
                break
    return records


def unigram_loss(train: TokenFile, targets: Ids, vocab_size: int) -> float:
    """Mean cross entropy in nats of `targets` under the unigram distribution of the training tokens.

    With add-one smoothing, for tokens that never occur. At most 2**28 tokens from the start of the file are counted. A
    model that has learnt anything from context has a lower loss.
    """
    counts: npt.NDArray[np.int64] = np.ones(vocab_size, dtype=np.int64)
    for start in range(0, min(train.total_tokens, UNIGRAM_TOKENS), CHUNK_TOKENS):
        counts += np.bincount(train.tokens[start : start + CHUNK_TOKENS], minlength=vocab_size)
    log_p = np.log(counts) - math.log(int(counts.sum()))
    return -float(log_p[targets[targets != IGNORED]].mean())
