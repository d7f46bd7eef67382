"""Validation errors of pydantic in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from longcat.pipeline.validation import MISSING, UNKNOWN, problems_of, reason_of


class Inner(BaseModel, extra="forbid"):
    count: int

    @model_validator(mode="after")
    def _even(self) -> Inner:
        if self.count % 2:
            raise ValueError("The count is odd")
        return self


class Outer(BaseModel):
    parts: list[Inner]


def wrong(values: Any) -> ValidationError:
    with pytest.raises(ValidationError) as found:
        Outer.model_validate(values)
    return found.value


def test_a_problem_has_location_kind_and_value() -> None:
    (problem,) = problems_of(wrong({"parts": [{"count": 2}, {"count": "many"}]}))
    assert (problem.path, problem.found) == ("parts.1.count", "many")
    assert str(problem).startswith("parts.1.count: input should be a valid integer")
    kinds = [problem.kind for problem in problems_of(wrong({"parts": [{"cuont": 2}]}))]
    assert kinds == [MISSING, UNKNOWN]


def test_a_reason_is_one_line() -> None:
    assert reason_of(wrong({"parts": [{"count": 3}]})) == "parts.0: the count is odd"
    assert reason_of(wrong([])).startswith("input should be")
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(KeyError()) == "KeyError"
