"""Formatting of values for people."""

from __future__ import annotations

from typing import Any

import pytest

from longcat.pipeline.values import leaves, numbers, written


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "none"),
        (True, "true"),
        (1234567, "1,234,567"),
        (0.1234567, "0.12346"),
        (100_000.0, "100,000"),
        (3e-7, "3e-07"),
        ("text", "text"),
        ([], "none"),
        ([1, None, "a"], "1, none, a"),
        ([[1, 2], [3]], "(1, 2), (3)"),
        ({"a": 1, "b": [True]}, "a 1, b true"),
        (list(range(20)), ", ".join(map(str, range(16))) + ", 4 more"),
    ],
)
def test_values_are_written_without_python_syntax(value: Any, shown: str) -> None:
    assert written(value) == shown


def test_exact_values_keep_every_digit() -> None:
    assert written([0.1 + 0.2, 1e5], exact=True) == "0.30000000000000004, 100000.0"


def test_records_have_names_or_numbers() -> None:
    found = dict(leaves({"a": {"b": 1}, "runs": [{"label": "x", "loss": 2}, {"label": "y", "loss": 3}], "l": [1]}))
    assert found == {"a.b": 1, "runs.x.loss": 2, "runs.y.loss": 3, "l": [1]}
    assert dict(leaves({"r": [{"label": "x"}, {"label": "x", "n": 1}]})) == {
        "r.1.label": "x",
        "r.2.label": "x",
        "r.2.n": 1,
    }


def test_only_numbers_are_shown() -> None:
    assert numbers({"a": 1, "b": True, "c": "x", "d": 0.5, "e": [1], "f": None, "g": 2, "h": 3}) == "a 1, d 0.5, g 2"
