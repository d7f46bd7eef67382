"""Sampling of batches: distributions, what changes them, and that rows do not touch each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from longcat.stages.inference.batch_sampler import BatchSampler
from longcat.stages.inference.logit_terms import SampleRow
from longcat.stages.inference.sampling import SamplingParams
from longcat.stages.inference.token_history import TokenHistory

LOGITS = torch.tensor([1.0, 3.0, 2.0, 3.0, -1.0])


def row(position: int = 0, prompt: tuple[int, ...] = (), seed: int = 1, **values: Any) -> SampleRow:
    params = SamplingParams(**values)
    return SampleRow(params, position, seed, history=TokenHistory.of(params, prompt))


def choose(logits_V: Tensor, rows: list[SampleRow]) -> list[int]:
    found = BatchSampler(len(logits_V), "cpu").sample(logits_V.expand(len(rows), -1), rows)
    assert all(one.error is None for one in found)
    return [one.token for one in found]


def continuation(count: int, prompt: tuple[int, ...], logits_V: Tensor = LOGITS, **values: Any) -> list[int]:
    """Tokens of consecutive steps, each added to the history."""
    params = SamplingParams(**values)
    history = TokenHistory.of(params, prompt)
    tokens: list[int] = []
    for position in range(count):
        tokens += choose(logits_V, [SampleRow(params, position, 1, history=history)])
        if history is not None:
            history.append(tokens[-1])
    return tokens


def exact(logits_V: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities [V] by sorting, in float64."""
    scores = logits_V.double() / params.temperature
    order = scores.sort(descending=True, stable=True).indices
    kept = scores[order].softmax(-1)
    if params.top_k:
        kept[params.top_k :] = 0
    kept /= kept.sum()
    kept[(kept.cumsum(-1) - kept) >= params.top_p] = 0
    kept[kept < params.min_p * kept[0]] = 0
    return torch.zeros_like(scores).scatter(0, order, kept / kept.sum())


def check_frequencies(found: Counter[int], expected_V: Tensor) -> None:
    """Chi-square over the tokens with at least five expected draws, the others together."""
    total = found.total()
    assert all(expected_V[token] > 0 for token in found)
    cells = [(found[token], p * total) for token, p in enumerate(expected_V.tolist()) if p * total >= 5]
    rest = total - sum(count for count, _ in cells), total - sum(mean for _, mean in cells)
    cells += [rest] if rest[1] >= 5 else []
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    freedom = len(cells) - 1
    # Wilson and Hilferty's approximation of the quantile 0.9999.
    assert statistic <= freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("vocabulary", [40, 1000])
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"temperature": 1.7},
        {"temperature": 0.3},
        {"top_k": 7},
        {"top_k": 100},
        {"top_p": 0.6},
        {"top_p": 0.97},
        {"min_p": 0.1},
        {"top_k": 20, "top_p": 0.8, "min_p": 0.02, "temperature": 1.3},
        {"top_k": 90, "top_p": 0.8, "temperature": 1.3},
    ],
)
def test_frequencies_follow_the_exact_distribution(values: dict[str, float], vocabulary: int) -> None:
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(5)) * 2
    rows = [row(position, seed=11, **values) for position in range(4000)]
    check_frequencies(Counter(choose(logits_V, rows)), exact(logits_V, rows[0].params))


MIXED: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"temperature": 0.7},
    {"top_k": 50},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 500},
    {"top_p": 0.95},
    {"top_p": 0.3, "min_p": 0.1},
    {"min_p": 0.05},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"logit_bias": {5: 30.0, 7: -100.0}},
    {"allowed_token_ids": range(10, 4000)},
    {"top_logprobs": 3, "temperature": 1.2},
]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("vocabulary", [4096, 20_011])
@pytest.mark.parametrize("together", [1, 64])
def test_a_row_does_not_depend_on_the_others(vocabulary: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcat.stages.inference.batch_sampler.ROWS_AT_ONCE", {"cpu": together})
    sampler = BatchSampler(vocabulary, "cpu")
    logits_RV = torch.randn(2 * len(MIXED), vocabulary, generator=torch.Generator().manual_seed(3)) * 3
    rows = [row(9, prompt=(1, 2, 900), seed=index, **values) for index, values in enumerate(MIXED * 2)]
    expected = [sampler.sample(logits_RV[index : index + 1].clone(), [one])[0] for index, one in enumerate(rows)]
    for order in (list(range(len(rows))), list(range(len(rows)))[::-1], [5, 6, 6, 20, 1, 14]):
        assert sampler.sample(logits_RV[order], [rows[index] for index in order]) == [expected[i] for i in order]


def test_numbers_of_a_batch_are_bitwise_those_of_its_rows() -> None:
    # Tails of vectors are where elementwise functions and sums over rows could differ.
    logits_RV = torch.randn(7, 20_011, generator=torch.Generator().manual_seed(3)) * 3
    alone = torch.cat([one.clone().unsqueeze(0).sub(1.5).div_(0.7).exp_() for one in logits_RV])
    assert torch.equal(logits_RV.sub(1.5).div_(0.7).exp_(), alone)
    assert torch.equal(logits_RV.log_softmax(-1), torch.cat([one.unsqueeze(0).log_softmax(-1) for one in logits_RV]))


def test_greedy_selects_the_first_of_the_most_likely() -> None:
    assert choose(LOGITS, [row(temperature=0)]) == [1]
    assert choose(torch.zeros(70_000), [row(temperature=0)]) == [0]


def test_seed_choice_and_position_decide() -> None:
    params = SamplingParams()
    logits_V = torch.zeros(1000)
    base = [SampleRow(params, position, 7) for position in range(20)]
    assert choose(logits_V, base) == choose(logits_V, base)
    assert choose(logits_V, base)[3] == choose(logits_V, base[3:4])[0]
    assert choose(logits_V, base) != choose(logits_V, [SampleRow(params, one.position, 8) for one in base])
    assert choose(logits_V, base) != choose(logits_V, [SampleRow(params, one.position, 7, choice=1) for one in base])


@pytest.mark.parametrize("values", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-45}])
def test_the_narrowest_setting_leaves_the_most_likely(values: dict[str, float]) -> None:
    logits_V = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    assert set(choose(logits_V, [row(position, **values) for position in range(50)])) == {int(logits_V.argmax())}


def test_repetition_penalty_divides_or_multiplies_seen_logits() -> None:
    # Seen in the prompt: 3.0 / 2 is less than 2.0, which is then penalised as well.
    assert continuation(2, (1, 3), temperature=0, repetition_penalty=2.0) == [2, 1]
    assert continuation(1, (0,), torch.tensor([-1.0, -1.5]), temperature=0, repetition_penalty=2.0) == [1]


def test_presence_and_frequency_penalties_apply_to_the_continuation_only() -> None:
    assert continuation(5, (1, 1, 1), temperature=0, frequency_penalty=0.6) == [1, 3, 1, 3, 2]
    assert continuation(4, (1,), temperature=0, presence_penalty=1.5) == [1, 3, 2, 1]
    assert continuation(4, (1,), temperature=0, presence_penalty=1.5, repetition_penalty=1.1) == [3, 1, 2, 1]


def test_a_history_followed_by_drafts_leaves_the_original() -> None:
    history = TokenHistory([5, 5, 2])
    for token in (2, 9, 9):
        history.append(token)
    longer = history.followed_by([9, *range(100, 300)])
    assert dict(zip(history.ids.tolist(), history.counts.tolist(), strict=True)) == {2: 1, 5: 0, 9: 2}
    assert dict(zip(longer.ids.tolist(), longer.counts.tolist(), strict=True))[9] == 3
    assert len(longer.ids) == 203
    assert TokenHistory.of(SamplingParams(), [1]) is None


def test_bias_changes_the_token_and_minus_100_forbids_it() -> None:
    assert choose(LOGITS, [row(temperature=0, logit_bias={4: 50.0})]) == [4]
    high = torch.tensor([500.0, 0.0])
    assert choose(high, [row(temperature=0, logit_bias={0: -99.0})]) == [0]
    assert choose(high, [row(position, logit_bias={0: -100.0}) for position in range(20)]) == [1] * 20


def test_only_allowed_tokens_are_chosen() -> None:
    rows = [row(position, allowed_token_ids=[2, 4, 4]) for position in range(200)]
    assert set(choose(LOGITS, rows)) == {2, 4}


def test_end_tokens_are_forbidden_until_min_tokens() -> None:
    params = SamplingParams(temperature=0, min_tokens=2)
    assert choose(LOGITS, [SampleRow(params, position, 0, banned=(1,)) for position in range(4)]) == [3, 3, 1, 1]


def test_a_mask_limits_its_row_only() -> None:
    words_W = torch.tensor([1 << 4, -(2**31)], dtype=torch.int32)
    logits_V = torch.arange(80.0)
    masked = SampleRow(SamplingParams(temperature=0), 0, 0, mask=words_W)
    assert choose(logits_V, [row(temperature=0), masked, row(temperature=0)]) == [79, 63, 79]
    masked.params = SamplingParams(temperature=0, logit_bias={63: -100})
    assert choose(logits_V, [masked]) == [4]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("values", [{"temperature": 0}, {}, {"top_k": 3}, {"top_p": 0.9}])
def test_a_row_that_is_not_finite_is_the_only_error(bad: float, values: dict[str, float]) -> None:
    logits_RV = torch.randn(3, 1000)
    logits_RV[1, 7] = bad
    first, second, third = BatchSampler(1000, "cpu").sample(logits_RV, [row(**values)] * 3)
    assert first.error is None
    assert third.error is None
    assert "not finite" in str(second.error)


def test_a_row_without_any_allowed_token_is_the_only_error() -> None:
    forbidden = SamplingParams(allowed_token_ids=[1], logit_bias={1: -100})
    first, second = BatchSampler(5, "cpu").sample(LOGITS.expand(2, -1), [SampleRow(forbidden, 0, 0), row()])
    assert "no token is allowed" in str(first.error)
    assert second.error is None


def test_padding_columns_are_never_chosen_and_logits_stay() -> None:
    logits_RV = torch.tensor([[0.0, 1.0, 99.0]])
    before = logits_RV.clone()
    found = BatchSampler(2, "cpu").sample(logits_RV, [row(temperature=0, logit_bias={1: -100})])
    assert found[0].token == 0
    assert torch.equal(logits_RV, before)
    assert BatchSampler(2, "cpu").sample(logits_RV[:0], []) == []


def test_logprobs_are_those_of_the_model_for_rows_that_want_them() -> None:
    rows = [
        row(temperature=0, top_logprobs=2, logit_bias={2: 50.0}),
        row(temperature=0),
        row(temperature=0, top_logprobs=0),
    ]
    first, second, third = BatchSampler(5, "cpu").sample(LOGITS.expand(3, -1), rows)
    expected = LOGITS.log_softmax(-1)
    assert first.logprobs is not None
    assert first.logprobs.token_id == 2
    assert first.logprobs.logprob == pytest.approx(expected[2].item())
    assert [token for token, _ in first.logprobs.top] == [1, 3]
    assert second.logprobs is None
    assert third.logprobs is not None
    assert third.logprobs.top == ()


def test_the_first_of_tied_top_logprobs_is_the_greedy_token() -> None:
    logits_V = torch.zeros(70_000)
    logits_V[[40_000, 9]] = 1.0
    (found,) = BatchSampler(70_000, "cpu").sample(logits_V.unsqueeze(0), [row(temperature=0, top_logprobs=4)])
    assert found.logprobs is not None
    assert [token for token, _ in found.logprobs.top] == [9, 40_000, 0, 1]
