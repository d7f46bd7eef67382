"""An engine with an offloaded cache: the same texts with drafts, preemption, known prefixes and other jobs."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.engine_thread import EngineThread
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams
from longcat.stages.inference.tokenizer import EngineTokenizer
from tests.stages.inference.test_deterministic import run

OFFLOAD: dict[str, Any] = {"tier": "memory", "block": 8, "resident_blocks": 3, "token_budget": 18}
PARAMS = SamplingParams(max_tokens=36, temperature=0.8, seed=4, ignore_eos=True, top_logprobs=1)
PROMPTS = [torch.randint(4, 360, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (41, 9, 60)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@lru_cache
def model_of() -> LongcatFlash:
    """In float64, so that what else a step computes does not tip a choice."""
    changes = {"vocab_size": 400, "initializer_range": 0.3, "num_nextn_predict_layers": 1}
    model = LongcatFlash(ModelConfig(**{**load_preset("smoke").model_dump(), **changes}))
    initialize(model, 5)
    return model.double().eval().requires_grad_(False)


def engine_of(tokenizer: EngineTokenizer, offload: dict[str, Any] | None, **options: Any) -> InferenceEngine:
    values = {"drafts": "off", "cache_tokens": 2048, "max_sequences": 4, "offload": offload} | options
    return InferenceEngine(model_of(), tokenizer, [tokenizer.eos_id], EngineOptions.model_validate(values))


def tokens(engine: InferenceEngine, prompts: list[list[int]], params: SamplingParams = PARAMS) -> list[Any]:
    return [[[entry.token_id for entry in choice] for choice in found] for found in run(engine, prompts, params)]


@lru_cache
def alone(tokenizer: EngineTokenizer) -> list[Any]:
    """Every text in an engine of its own, copies waited for."""
    return [tokens(engine_of(tokenizer, {**OFFLOAD, "mode": "sync"}), [prompt])[0] for prompt in PROMPTS]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"drafts": "mtp", "draft_tokens": 3},
        {"drafts": "ngram", "draft_tokens": 2, "step_tokens": 16},
        {"cache_tokens": 8 * 16, "max_sequences": 2, "step_tokens": 32},
    ],
    ids=["together", "mtp", "ngram", "preempted"],
)
def test_texts_are_those_of_each_alone(tokenizer: EngineTokenizer, options: dict[str, Any]) -> None:
    engine = engine_of(tokenizer, OFFLOAD, **options)
    assert tokens(engine, PROMPTS) == alone(tokenizer)
    assert tokens(engine, PROMPTS[::-1]) == alone(tokenizer)[::-1]  # prompts are known now
    assert engine.core.scheduler.pool.hit_tokens > 0
    assert (engine.core.scheduler.preemptions > 0) == ("cache_tokens" in options)
    stats = engine.core.runner.cache.offload_stats
    assert stats.tokens > 0 and stats.missing > 0


def test_something_was_left_out(tokenizer: EngineTokenizer) -> None:
    """The long texts differ from those of dense attention, and a text that fits does not."""
    dense = [tokens(engine_of(tokenizer, None), [prompt])[0] for prompt in PROMPTS]
    assert [one == other for one, other in zip(dense, alone(tokenizer), strict=True)][0::2] == [False, False]
    short = SamplingParams(max_tokens=24 - len(PROMPTS[1]), temperature=0.8, seed=4, ignore_eos=True, top_logprobs=1)
    found = [tokens(engine_of(tokenizer, offload), [PROMPTS[1]], short) for offload in (None, OFFLOAD)]
    assert found[0] == found[1]


def test_the_next_turn_of_a_long_text_is_that_of_a_new_engine(tokenizer: EngineTokenizer) -> None:
    """Generated positions beyond the fast tier are not taken from the prefix cache: they are of another prompt."""
    engine = engine_of(tokenizer, OFFLOAD)
    first = tokens(engine, [PROMPTS[0]])[0][0]
    turn = [*PROMPTS[0], *first, 17, 18]
    again = tokens(engine, [turn])
    assert again == tokens(engine_of(tokenizer, OFFLOAD), [turn])
    assert 0 < engine.core.scheduler.pool.hit_tokens <= len(PROMPTS[0])


def test_answers_of_one_prompt(tokenizer: EngineTokenizer) -> None:
    def choices(**options: Any) -> list[Any]:
        found = run(engine_of(tokenizer, OFFLOAD, **options), [PROMPTS[0]], PARAMS, 3)
        return [[entry.token_id for entry in choice] for choice in found[0]]

    assert choices() == choices(prefix_cache=False, max_sequences=1)


def test_figures_are_told(tokenizer: EngineTokenizer) -> None:
    engine = engine_of(tokenizer, {**OFFLOAD, "measure_every": 4})
    tokens(engine, PROMPTS)
    snapshot = EngineThread(engine, 1).snapshot()
    cache = engine.core.runner.cache
    assert snapshot.resident_bytes == cache.resident_bytes > 0
    assert snapshot.chosen_blocks > snapshot.missing_blocks > 0
    assert snapshot.moved_bytes > 0 and 0 < snapshot.recall_sum < snapshot.recall_count


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "deterministic = true cannot be used with offload": ({}, {"deterministic": True}),
    "page_size = 16, but a page of an offloaded cache is a block of 8 tokens": ({}, {"page_size": 16}),
    "nothing would be saved; lower max_sequences or": ({}, {"max_sequences": 64}),
    "there is no such folder; create it": ({"tier": "disk", "folder": "/nowhere/at/all"}, {}),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_cannot_be_is_refused_before_the_first_step(told: str, tokenizer: EngineTokenizer) -> None:
    offload, options = WRONG[told]
    with pytest.raises(ConfigError, match=re.escape(told)):
        engine_of(tokenizer, {**OFFLOAD, **offload}, **options).prepare()


def test_a_copy_that_fails_ends_its_jobs_and_not_the_engine(
    tokenizer: EngineTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk that fails does; the file has no name."""
    engine = engine_of(tokenizer, {**OFFLOAD, "tier": "disk", "folder": tmp_path})
    engine.prepare()
    assert not list(tmp_path.iterdir())

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("longcat.model.attention.offload.slow_tier.SlowPages.read", broken)
        with pytest.raises(OSError, match="Input/output error"):
            list(engine.generate(PROMPTS[0], PARAMS))
    assert tokens(engine, PROMPTS) == alone(tokenizer)
