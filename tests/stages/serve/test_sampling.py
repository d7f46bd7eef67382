"""The choice of the next token."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from longcat.pipeline.errors import InputError, LongcatError
from longcat.stages.serve.sampling import Sampler, SamplingParams, token_logprobs

LOGITS = torch.tensor([1.0, 3.0, 2.0, 3.0, -1.0])


def draws(params: SamplingParams, count: int, logits: torch.Tensor = LOGITS, choice: int = 0) -> list[int]:
    sampler = Sampler(params, [], choice)
    return [sampler(logits) for _ in range(count)]


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert draws(SamplingParams(temperature=0), 3) == [1, 1, 1]


def test_a_seed_repeats_and_choices_differ() -> None:
    params = SamplingParams(seed=7)
    assert draws(params, 40) == draws(params, 40)
    assert draws(params, 40) != draws(params, 40, choice=1)
    assert draws(params, 40) != draws(SamplingParams(seed=8), 40)


def test_frequencies_follow_the_distribution() -> None:
    params = SamplingParams(seed=0, temperature=1.5)
    found = Counter(draws(params, 4000))
    expected = (LOGITS / 1.5).softmax(-1)
    for token, probability in enumerate(expected.tolist()):
        assert found[token] / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 2, 3}),
        ({"top_p": 0.0}, {1}),
        # 1 and 3 hold 0.40 each: the second is needed to reach one half.
        ({"top_p": 0.5}, {1, 3}),
        ({"top_p": 0.9}, {1, 2, 3}),
        ({"top_k": 100}, {0, 1, 2, 3, 4}),
    ],
)
def test_truncation_keeps_the_likeliest(changes: dict[str, float], allowed: set[int]) -> None:
    assert set(draws(SamplingParams(seed=1, **changes), 1500)) == allowed  # type: ignore[arg-type]


def test_repetition_penalty_divides_or_multiplies_seen_logits() -> None:
    params = SamplingParams(temperature=0, repetition_penalty=2.0)
    # Seen in the prompt: 3.0 / 2 is less than 2.0, which then repeats no more either.
    sampler = Sampler(params, [1, 3])
    assert [sampler(LOGITS) for _ in range(2)] == [2, 1]


def test_presence_and_frequency_penalties_look_at_the_continuation_only() -> None:
    sampler = Sampler(SamplingParams(temperature=0, frequency_penalty=0.6), [1, 1, 1])
    assert [sampler(LOGITS) for _ in range(5)] == [1, 3, 1, 3, 2]
    sampler = Sampler(SamplingParams(temperature=0, presence_penalty=1.5), [1])
    assert [sampler(LOGITS) for _ in range(4)] == [1, 3, 2, 1]


def test_bias_moves_a_token() -> None:
    assert draws(SamplingParams(temperature=0, logit_bias={4: 100.0}), 1) == [4]
    assert 1 not in draws(SamplingParams(seed=0, logit_bias={1: -100.0}), 200)


def test_logits_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(LongcatError, match="not finite"):
        draws(SamplingParams(temperature=0), 1, torch.tensor([0.0, math.nan]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("temperature", math.nan),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_tokens", -1),
        ("seed", 2**64),
    ],
)
def test_values_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


def test_logprobs_are_of_the_plain_distribution() -> None:
    first, second = token_logprobs(torch.stack([LOGITS, 2 * LOGITS]), [2, 0], 2)
    expected = LOGITS.log_softmax(-1)
    assert first.logprob == pytest.approx(expected[2].item())
    assert [token for token, _ in first.top] == [1, 3]
    assert first.top[0][1] == pytest.approx(expected[1].item())
    assert second.logprob == pytest.approx((2 * LOGITS).log_softmax(-1)[0].item())
    assert token_logprobs(LOGITS.unsqueeze(0), [1], 0)[0].top == ()
