"""Deterministic engines: the same bits of log-probabilities and the same tokens, whatever else is computed."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.model import mixers
from longcat.model.checkpoint import save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.jobs import Event, Finished, Job, PromptDelta, PromptScores
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams
from longcat.stages.inference.tokenizer import EngineTokenizer

TEXTS = (
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy cat.",
    '{"name": "Zürich", "values": [1, 2, 3]}',
    "The quick brown fox jumps over the lazy dog. And then?",
    "日本語のテキスト。",
    "a",
    "abababababababababababab",
    "The lazy dog " * 6,
    "values",
    "Größe und Maß",
)
PARAMS = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, top_logprobs=5)
SAMPLED = replace(PARAMS, temperature=0.8, top_p=0.9, seed=4)
# Few tokens, so that a text soon repeats itself and drafts are found.
REPEATING = replace(SAMPLED, allowed_token_ids=[70, 71, 72], temperature=0.3)
SETTINGS = {"greedy": PARAMS, "sampled": SAMPLED, "repeating": REPEATING}
SHAPES: dict[str, dict[str, Any]] = {
    "smoke": {},
    "widths of 8": {"hidden_size": 72, "ffn_hidden_size": 88, "expert_ffn_hidden_size": 24, "num_layers": 2},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@lru_cache
def model_of(shape: str) -> LongcatFlash:
    changes = {"vocab_size": 400, "initializer_range": 0.3, "num_nextn_predict_layers": 1, **SHAPES[shape]}
    model = LongcatFlash(ModelConfig(**{**load_preset("smoke").model_dump(), **changes}))
    initialize(model, 5)
    return model.eval().requires_grad_(False)


def engine_of(model: LongcatFlash, tokenizer: EngineTokenizer, **options: Any) -> InferenceEngine:
    values = {"deterministic": True, "drafts": "off", "cache_tokens": 4096} | options
    return InferenceEngine(model, tokenizer, [tokenizer.eos_id], EngineOptions.model_validate(values))


def run(engine: InferenceEngine, prompts: Sequence[list[int]], params: SamplingParams, choices: int = 1) -> list[Any]:
    """For every prompt, by choice: all tokens with their log-probabilities. All are computed at once."""
    events: list[list[Event]] = [[] for _ in prompts]
    for prompt, found in zip(prompts, events, strict=True):
        engine.submit(Job([prompt], params, found.append, math.inf, choices=choices))
    while any(not isinstance((found or [None])[-1], Finished) for found in events):
        engine.step()
    answers = []
    for found in events:
        assert found[-1] == Finished(None)
        deltas = [event.delta for event in found if isinstance(event, PromptDelta)]
        answers.append(
            [
                [entry.logprobs for delta in deltas if delta.choice == choice for entry in delta.entries]
                for choice in range(choices)
            ]
        )
    return answers


@lru_cache
def alone(shape: str, tokenizer: EngineTokenizer, setting: str, choices: int = 1) -> list[Any]:
    """Every prompt in an engine of its own."""
    engine = engine_of(model_of(shape), tokenizer, prefix_cache=False)
    return [run(engine, [tokenizer.encode(text)], SETTINGS[setting], choices)[0] for text in TEXTS]


WAYS: dict[str, dict[str, Any]] = {
    "together": {},
    "two tokens a step": {"step_tokens": 2},
    "seven tokens a step": {"step_tokens": 7},
    "64 tokens a step": {"step_tokens": 64},
    "pages of one": {"page_size": 1},
    "small cache": {"cache_tokens": 160, "page_size": 4, "step_tokens": 24},
    "n-gram drafts": {"drafts": "ngram", "draft_tokens": 3},
    "own drafts": {"drafts": "mtp", "draft_tokens": 2},
    "own drafts, small cache": {"drafts": "mtp", "cache_tokens": 160, "page_size": 4, "step_tokens": 17},
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_text_is_the_same_in_every_way(shape: str, options: dict[str, Any], tokenizer: EngineTokenizer) -> None:
    engine = engine_of(model_of(shape), tokenizer, **options)
    prompts = [tokenizer.encode(text) for text in TEXTS]
    for setting, params in SETTINGS.items():
        expected = alone(shape, tokenizer, setting)
        assert all(len(entries) == 20 for (entries,) in expected)
        for count in (9, 2, 5):
            assert run(engine, prompts[:count], params) == expected[:count]
    assert engine.core.scheduler.pool.hit_tokens > 0
    if "cache_tokens" in options:
        assert engine.core.scheduler.preemptions > 0
    if "drafts" in options:
        assert sum(engine.core.stats.drafted) > 0
    if options.get("drafts") == "ngram":
        assert 0 < sum(engine.core.stats.accepted) < sum(engine.core.stats.drafted)


def test_choices_are_the_same_too(tokenizer: EngineTokenizer) -> None:
    prompts = [tokenizer.encode(text) for text in TEXTS]
    expected = alone("smoke", tokenizer, "sampled", 3)
    assert expected[0][0] != expected[0][1]
    assert run(engine_of(model_of("smoke"), tokenizer, step_tokens=31), prompts, SAMPLED, 3) == expected


def test_scores_of_prompts_are_those_of_generation(tokenizer: EngineTokenizer) -> None:
    """A generated text gets the log-probabilities with which it was written."""
    engine = engine_of(model_of("smoke"), tokenizer, step_tokens=13)
    prompt = tokenizer.encode(TEXTS[1])
    written = alone("smoke", tokenizer, "greedy")[1][0]
    events: list[Event] = []
    others = [Job([tokenizer.encode(text)], PARAMS, lambda _: None, math.inf) for text in TEXTS]
    scored = Job(
        [[*prompt, *(entry.token_id for entry in written)]],
        SamplingParams(max_tokens=0),
        events.append,
        math.inf,
        score_top=5,
    )
    for job in (*others[:4], scored, *others[4:]):
        engine.submit(job)
    while engine.holds(scored):
        engine.step()
    found = next(event.logprobs for event in events if isinstance(event, PromptScores))
    assert found[len(prompt) :] == written


def test_the_default_engine_differs_in_the_last_bits_only(tokenizer: EngineTokenizer) -> None:
    """Otherwise the tests above would show nothing."""
    expected = alone("widths of 8", tokenizer, "greedy")
    engine = engine_of(model_of("widths of 8"), tokenizer, deterministic=False)
    found = run(engine, [tokenizer.encode(text) for text in TEXTS], PARAMS)
    assert found != expected
    firsts = [(one[0][0].logprob, other[0][0].logprob) for one, other in zip(found, expected, strict=True)]
    assert all(one == pytest.approx(other, abs=1e-4) for one, other in firsts)


@pytest.mark.parametrize("weights", ["auto", "int8"])
def test_the_form_of_loaded_weights_is_not_measured(
    weights: str, tokenizer_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the next process could choose another form, with other bits."""
    save_pretrained(model_of("smoke"), tmp_path)
    for path in tokenizer_folder.iterdir():
        shutil.copy(path, tmp_path)
    options = EngineOptions.model_validate({"deterministic": True, "weights": weights, "cache_tokens": 512})
    with caplog.at_level(logging.DEBUG):
        engine = load_engine(tmp_path, device="cpu", threads=1, options=options)
    lines = [record.message for record in caplog.records if " x [" in record.message]
    assert lines
    assert all("as asked" in line and " us" not in line for line in lines)
    with pytest.raises(ConfigError, match="this one is bfloat16 on cpu"):
        load_engine(tmp_path, device="cpu", dtype="bfloat16", options=EngineOptions(deterministic=True))
    prompts = [engine.tokenizer.encode(text) for text in TEXTS]
    together = run(engine, prompts, PARAMS)
    assert [run(engine, [prompt], PARAMS)[0] for prompt in prompts] == together


def test_what_cannot_be_deterministic_is_refused_by_name(
    tokenizer: EngineTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")
    config = {**load_preset("smoke").model_dump(), "attention": "test_linear", "vocab_size": 400}
    linear = LongcatFlash(ModelConfig(**config))
    initialize(linear, 0)
    for model, what in ((linear, "attention 'test_linear'"), (model_of("smoke").bfloat16(), "bfloat16 on cpu")):
        with pytest.raises(ConfigError, match=f"deterministic = true cannot be used here: .*{what}") as caught:
            _ = engine_of(model, tokenizer).core
        assert caught.value.hint == "use deterministic = false"
    model_of.cache_clear()
