"""Needles: position, question, and the score of a model that finds them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from longcat.pipeline.artifact import Artifact
from longcat.stages.evaluate.config import NeedleOptions
from longcat.stages.evaluate.needle import (
    TooShortError,
    build_case,
    draw_cases,
    make_needle,
    rank_of,
)
from longcat.stages.evaluate.needle_run import run_needles, try_case
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.tokenizer import EngineTokenizer
from tests.stages.evaluate.reader import Reader


def test_the_haystack_is_the_text_without_special_tokens(
    haystack: Any, tokenizer: EngineTokenizer, validation_texts: tuple[str, ...]
) -> None:
    assert tokenizer.literal_text(haystack.tolist()) == "".join(text + "\n\n" for text in validation_texts)


@pytest.mark.parametrize("depth", [0.0, 0.1, 0.5, 0.73, 1.0])
@pytest.mark.parametrize("length", [90, 200])
def test_the_needle_is_at_the_requested_depth(
    haystack: Any, tokenizer: EngineTokenizer, length: int, depth: float
) -> None:
    needle = make_needle(tokenizer, 4, random.Random(0))
    case = build_case(haystack, needle, length, depth, 11)
    room = length - needle.tokens
    assert len(case.prompt) + len(needle.answer_ids) == length
    assert case.position == round(depth * room)
    fact = needle.fact
    assert case.prompt[case.position : case.position + len(fact)] == fact
    around = case.prompt[: case.position] + case.prompt[case.position + len(fact) : -len(needle.question)]
    assert around == haystack[11 : 11 + room].tolist()
    assert case.prompt[-len(needle.question) :] == needle.question


def test_candidates_are_distinct_numbers_of_one_length(tokenizer: EngineTokenizer) -> None:
    needle = make_needle(tokenizer, 20, random.Random(3))
    assert len({tuple(ids) for ids in needle.candidates}) == 20
    assert len({len(ids) for ids in needle.candidates}) == 1
    texts = [tokenizer.literal_text(ids) for ids in needle.candidates]
    assert all(text[0] == " " and len(text) == 6 and text[1:].isdecimal() for text in texts)
    fact = tokenizer.literal_text(needle.fact)
    assert fact.startswith("\n\nThe access code of ")
    assert fact.endswith(f" is{texts[needle.answer]}.\n\n")
    assert fact.startswith(tokenizer.literal_text(needle.question))


def test_cases_depend_only_on_seed_length_and_depth(haystack: Any, tokenizer: EngineTokenizer) -> None:
    def prompts(**changes: Any) -> list[list[int]]:
        options = {"length": 100, "depth": 0.5, "trials": 3, "candidates": 4, "seed": 0, **changes}
        return [case.prompt for case in draw_cases(haystack, tokenizer, **options)]

    assert prompts() == prompts()
    assert prompts(trials=2) == prompts()[:2]
    assert prompts(seed=1) != prompts()
    assert len({tuple(prompt) for prompt in prompts()}) == 3


def test_impossible_lengths(tokenizer: EngineTokenizer) -> None:
    def draw(size: int, length: int) -> None:
        list(draw_cases(np.full(size, 50), tokenizer, length=length, depth=0, trials=1, candidates=2, seed=0))

    with pytest.raises(TooShortError, match="needle and question alone"):
        draw(1000, 20)
    with pytest.raises(TooShortError, match="only 50 tokens"):
        draw(50, 500)
    draw(500, 500)


def test_rank() -> None:
    assert rank_of([-3.0, -1.0, -2.0], 1) == 1
    assert rank_of([-3.0, -1.0, -2.0], 2) == 2
    assert rank_of([-1.0, -1.0, -1.0], 0) == 3


def test_a_model_that_finds_every_needle(short: Artifact, haystack: Any) -> None:
    reader = Reader(load_engine(short.path, device="cpu"))
    options = NeedleOptions(lengths=(90,), depths=(0.0, 0.5, 1.0), trials=3, candidates=6)
    done: list[int] = []
    result = run_needles(reader, haystack, options, 0, done.append)
    assert [(cell["top1"], cell["exact_match"], cell["mean_rank"]) for cell in result["cells"]] == [(1, 1, 1)] * 3
    assert result["top1"] == 1
    assert done == [90] * 9


def test_scores_are_the_log_probabilities_of_whole_answers(short: Artifact, haystack: Any) -> None:
    engine = load_engine(short.path, device="cpu")
    needle = make_needle(engine.tokenizer, 5, random.Random(1))
    case = build_case(haystack, needle, 90, 0.4, 0)
    outcome = try_case(engine, case)
    scores = []
    for candidate in needle.candidates:
        with torch.no_grad():
            logits = engine.model(torch.tensor([[*case.prompt, *candidate]])).logits[0, :, : engine.vocab_size]
        logprobs = logits.double().log_softmax(-1)[len(case.prompt) - 1 :]
        scores.append(sum(logprobs[place, token].item() for place, token in enumerate(candidate)))
    assert outcome.logprob == pytest.approx(scores[needle.answer], abs=1e-4)
    assert outcome.rank == rank_of(scores, needle.answer)
