"""Loss by position: what a token's loss gains from the text before it, and where a context ends.

The same beginnings of long documents give the losses of all positions, so buckets differ by position only. The engine
reads a document in steps, without holding the logits of all its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from longcat.pipeline.tokens import TokenFile
from longcat.stages.evaluate.config import PositionOptions
from longcat.stages.evaluate.loss import DIGITS
from longcat.stages.formats.windows import describe_lengths
from longcat.stages.inference.engine import InferenceEngine

FIRST_EDGE = 256


def edges(length: int) -> list[int]:
    """Bounds of the buckets: 0, 256, 512, 1024, ... and the length."""
    inner = []
    edge = FIRST_EDGE
    while edge < length:
        inner.append(edge)
        edge *= 2
    return [0, *inner, length]


def run_positions(
    engine: InferenceEngine, validation: TokenFile, options: PositionOptions, on_document: Callable[[int], None]
) -> dict[str, Any]:
    """Returns `buckets` of positions (`from` inclusive, `to` exclusive) with loss and standard error over documents.

    The loss at a position is that of the token there, after as many tokens; the first has none. Without a document of
    the length there are no buckets, but a `skipped` reason. A bucket beyond the checkpoint's context is left out.
    """
    length = options.length or 0
    lengths = np.diff(validation.document_offsets)
    long = np.flatnonzero(lengths >= length)
    if not len(long):
        reason = f"no validation document has {length:,} tokens; {describe_lengths(lengths)}"
        return {"documents": 0, "buckets": [], "skipped": reason}
    count = min(options.documents, len(long))
    read = min(length, engine.max_length)
    losses_ND = np.zeros((count, read - 1))
    for row in range(count):
        document = validation.document(int(long[row * len(long) // count]))
        entries = engine.score(document[:read].tolist(), start=1)
        losses_ND[row] = [-(entry.logprob or 0.0) for entry in entries]
        on_document(read)
    buckets = []
    for first, end in pairwise(edges(length)):
        if end <= read:
            buckets.append(_bucket(first, end, losses_ND[:, max(first, 1) - 1 : end - 1]))
    return {"documents": count, "buckets": buckets, "skipped": None}


def _bucket(first: int, end: int, losses_ND: np.ndarray) -> dict[str, Any]:
    means_N = losses_ND.mean(axis=1)
    error = float(means_N.std(ddof=1)) / math.sqrt(len(means_N)) if len(means_N) > 1 else 0.0
    return {
        "from": first,
        "to": end,
        "loss": round(float(means_N.mean()), DIGITS),
        "standard_error": round(error, DIGITS),
        "tokens": int(losses_ND.size),
    }
