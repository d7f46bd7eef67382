"""Ranges of sampling parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest

from longcat.pipeline.errors import InputError
from longcat.stages.inference.sampling import SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("min_tokens", -1),
        ("min_tokens", 257),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [3, -1]),
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("top_logprobs", -1),
    ],
)
def test_values_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        SamplingParams(**{name: value})
