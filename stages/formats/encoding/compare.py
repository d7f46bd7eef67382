"""Comparison of a sample of encoded texts with the ids of the tokenizers library."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longcat.pipeline.errors import IntegrityError
from longcat.stages.formats.encoding import Encoded, Encoder

MAX_CHARACTERS = 1 << 13


def compare(
    encoder: Encoder, texts: Sequence[str], encoded: Encoded, names: Sequence[str], chosen: Sequence[int], where: str
) -> int:
    """Encode the `chosen` texts again by the tokenizers library; returns how many were compared.

    `encoded` are the ids that `encoder` gave `texts`. Of a text longer than `MAX_CHARACTERS` its beginning is encoded
    by both.

    Raises:
        IntegrityError: the ids differ; names the text and `where` it is from.
    """
    if encoder.library == "tokenizers" or not chosen:
        return 0
    rows = encoded.rows()
    expected = encoder.reference([texts[number][:MAX_CHARACTERS] for number in chosen]).rows()
    for number, wanted in zip(chosen, expected, strict=True):
        whole = len(texts[number]) <= MAX_CHARACTERS
        found = rows[number] if whole else encoder.encode([texts[number][:MAX_CHARACTERS]]).ids
        if not np.array_equal(found, wanted):
            raise IntegrityError(
                f"document {names[number]!r}: {_difference(found.tolist(), wanted.tolist())}",
                where=where,
                hint="run again with --set encoder=tokenizers",
            )
    return len(chosen)


def _difference(found: list[int], wanted: list[int]) -> str:
    shared = zip(found, wanted, strict=False)
    first = next((place for place, (a, b) in enumerate(shared) if a != b), min(len(found), len(wanted)))
    ours, theirs = ([*ids[first : first + 1], "none"][0] for ids in (found, wanted))
    return f"gigatoken and tokenizers differ from token {first} on ({ours} and {theirs})"
