"""Needle tests of a model, aggregated by length and depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.evaluate.config import NeedleOptions
from longcat.stages.evaluate.loss import DIGITS
from longcat.stages.evaluate.needle import Case, NeedleOutcome, TooShortError, draw_cases, rank_of
from longcat.stages.formats.windows import Ids
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.sampling import SamplingParams


def run_needles(
    engine: InferenceEngine, haystack: Ids, options: NeedleOptions, seed: int, on_case: Callable[[int], None]
) -> dict[str, Any]:
    """Run all lengths and depths: returns `cells`, one per length and depth, and `skipped` lengths with the reason.

    `on_case` is called with the number of tokens of every finished case.

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


def try_case(engine: InferenceEngine, case: Case) -> NeedleOutcome:
    """Score every candidate after the prompt, then decode greedily; the prompt itself is computed once."""
    size, answer = len(case.prompt), case.needle.answer_ids
    params = SamplingParams(max_tokens=len(answer), temperature=0, ignore_eos=True)
    written = [token for delta in engine.generate(case.prompt, params) for token in delta.token_ids]
    scores = []
    for candidate in case.needle.candidates:
        entries = engine.score([*case.prompt, *candidate], start=size)
        scores.append(sum(entry.logprob or 0.0 for entry in entries))
    return NeedleOutcome(rank_of(scores, case.needle.answer), written == answer, scores[case.needle.answer])


def _summarise(outcomes: Sequence[NeedleOutcome]) -> dict[str, float | int]:
    count = len(outcomes)
    return {
        "trials": count,
        "exact_match": round(sum(outcome.exact for outcome in outcomes) / count, DIGITS),
        "top1": round(sum(outcome.rank == 1 for outcome in outcomes) / count, DIGITS),
        "mean_rank": round(sum(outcome.rank for outcome in outcomes) / count, DIGITS),
        "answer_logprob": round(sum(outcome.logprob for outcome in outcomes) / count, DIGITS),
    }


def _share(cells: Sequence[dict[str, Any]], name: str) -> float | None:
    """Mean over all trials; None if there were none."""
    trials = sum(cell["trials"] for cell in cells)
    return round(sum(cell[name] * cell["trials"] for cell in cells) / trials, DIGITS) if trials else None
