"""Needles put to a model, and what comes out by length and depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.evaluate.config import NeedleOptions
from longcat.stages.evaluate.loss import DIGITS
from longcat.stages.evaluate.needle import Case, Outcome, TooShortError, draw_cases, rank_of
from longcat.stages.serve.engine import InferenceEngine
from longcat.stages.serve.sampling import SamplingParams
from longcat.stages.train.loader import Ids


def run_needles(
    engine: InferenceEngine, haystack: Ids, options: NeedleOptions, seed: int, on_case: Callable[[int], None]
) -> dict[str, Any]:
    """All lengths and depths: `cells`, one a length and depth, and `skipped`, lengths with the reason.

    `on_case` is told the tokens of every case that is done.

    Raises:
        InputError: the tokenizer cannot write the candidates.
    """
    cells, skipped = [], []
    for length in options.lengths:
        try:
            cells += _run_length(engine, haystack, options, seed, length, on_case)
        except TooShortError as reason:
            skipped.append({"length": length, "reason": str(reason)})
    return {"cells": cells, "skipped": skipped, "top1": _share(cells, "top1")}


def _run_length(
    engine: InferenceEngine,
    haystack: Ids,
    options: NeedleOptions,
    seed: int,
    length: int,
    on_case: Callable[[int], None],
) -> list[dict[str, Any]]:
    if length > engine.max_length:
        raise TooShortError(f"the checkpoint's context (max_position_embeddings) holds {engine.max_length} tokens")
    cells = []
    for depth in options.depths:
        outcomes = []
        cases = draw_cases(
            haystack,
            engine.tokenizer,
            length=length,
            depth=depth,
            trials=options.trials,
            candidates=options.candidates,
            seed=seed,
        )
        try:
            for case in cases:
                outcomes.append(try_case(engine, case))
                on_case(length)
        except ValueError as error:
            raise InputError(str(error), where="needle.candidates", hint="lower it") from None
        cells.append({"length": length, "depth": depth, **_summarise(outcomes)})
    return cells


def try_case(engine: InferenceEngine, case: Case) -> Outcome:
    """Read the prompt once, score every candidate after it, then let the model write greedily."""
    size = len(case.prompt)
    answer = case.needle.answer_ids
    cache = engine.new_cache(size + len(answer))
    prompt_logits_V = engine.read(cache, case.prompt)
    scores = []
    for candidate in case.needle.candidates:
        scores.append(sum(entry.logprob or 0.0 for entry in engine.score(cache, candidate)))
        cache.truncate(size, prompt_logits_V)
    params = SamplingParams(max_tokens=len(answer), temperature=0, ignore_eos=True)
    deltas = engine.generate(case.prompt, params, cache=cache)
    written = [token for delta in deltas for token in delta.token_ids]
    return Outcome(rank_of(scores, case.needle.answer), written == answer, scores[case.needle.answer])


def _summarise(outcomes: Sequence[Outcome]) -> dict[str, float | int]:
    count = len(outcomes)
    return {
        "trials": count,
        "exact_match": round(sum(outcome.exact for outcome in outcomes) / count, DIGITS),
        "top1": round(sum(outcome.rank == 1 for outcome in outcomes) / count, DIGITS),
        "mean_rank": round(sum(outcome.rank for outcome in outcomes) / count, DIGITS),
        "answer_logprob": round(sum(outcome.logprob for outcome in outcomes) / count, DIGITS),
    }


def _share(cells: Sequence[dict[str, Any]], name: str) -> float | None:
    """Mean over all trials; None when there were none."""
    trials = sum(cell["trials"] for cell in cells)
    return round(sum(cell[name] * cell["trials"] for cell in cells) / trials, DIGITS) if trials else None
