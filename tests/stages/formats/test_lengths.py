"""Documents by length, in powers of two."""

from __future__ import annotations

import numpy as np

from longcat.stages.formats.lengths import LengthCounts, length_rows


def test_buckets_begin_at_powers_of_two() -> None:
    rows = length_rows([0, 1, 2, 3, 4, 7, 8])
    assert [tuple(row.values()) for row in rows] == [
        (0, 0, 1, 0, 0.0),
        (1, 1, 1, 1, 0.04),
        (2, 3, 2, 5, 0.2),
        (4, 7, 2, 11, 0.44),
        (8, 15, 1, 8, 0.32),
    ]


def test_every_length_is_in_its_bucket() -> None:
    for power in range(1, 40):
        for length in (2**power - 1, 2**power):
            (row,) = length_rows([length], "bytes")
            assert row["from"] <= length <= row["to"]
            assert row["bytes"] == length


def test_parts_add_up_and_empty_buckets_between_are_listed() -> None:
    lengths = np.random.default_rng(0).integers(1, 5000, 300)
    counts = LengthCounts()
    for part in np.array_split(lengths, 7):
        counts.add(part)
    assert counts.rows() == length_rows(lengths)
    assert sum(row["documents"] for row in counts.rows()) == 300
    assert sum(row["tokens"] for row in counts.rows()) == lengths.sum()
    assert [row["documents"] for row in length_rows([1, 8])] == [1, 0, 0, 1]
    assert length_rows([]) == []
