"""Recall among many facts: each is hidden at a known depth of the same text, and each is asked for at its end.

    [text ... "The code of kova is melu." ... "The code of bati is zuro." ... text] "The code of kova is" -> " melu"

The text is computed once, and every question continues it, so a long text with many facts costs little more than
reading it. The other facts of the text are distractors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longcat.stages.evaluate.config import RecallOptions
from longcat.stages.evaluate.loss import DIGITS
from longcat.stages.evaluate.needle import TooShortError
from longcat.stages.formats.key_values import Statement, key_words, value_words
from longcat.stages.formats.windows import Ids
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.tokenizer import EngineTokenizer

# Texts that are tried before it is reported that all contain the keys.
TRIES = 100


@dataclass(frozen=True)
class Question:
    """One fact to recall; `position` is the number of tokens before it."""

    depth: float
    position: int
    question: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Facts:
    """A text with facts, in tokens, and the questions that may follow it."""

    text: list[int]
    questions: list[Question]


@dataclass(frozen=True)
class _Fact:
    question: list[int]
    answer: list[int]
    end: list[int]

    @property
    def ids(self) -> list[int]:
        return [*self.question, *self.answer, *self.end]


def run_recall(
    engine: InferenceEngine, haystack: Ids, options: RecallOptions, seed: int, on_text: Callable[[int], None]
) -> dict[str, Any]:
    """Run all lengths: returns `cells`, one per length and depth, `skipped` lengths with the reason, and `recalled`.

    `on_text` is called with the number of tokens of every finished text.
    """
    cells, skipped = [], []
    for length in options.lengths:
        try:
            cells += _run_length(engine, haystack, options, seed, length, on_text)
        except TooShortError as reason:
            skipped.append({"length": length, "reason": str(reason)})
    trials = sum(cell["trials"] for cell in cells)
    share = sum(cell["recalled"] * cell["trials"] for cell in cells) / trials if trials else None
    return {"cells": cells, "skipped": skipped, "recalled": share and round(share, DIGITS)}


def _run_length(
    engine: InferenceEngine,
    haystack: Ids,
    options: RecallOptions,
    seed: int,
    length: int,
    on_text: Callable[[int], None],
) -> list[dict[str, Any]]:
    if length > engine.max_length:
        raise TooShortError(f"the checkpoint's context (max_position_embeddings) holds {engine.max_length} tokens")
    found: dict[float, list[tuple[bool, float]]] = {depth: [] for depth in options.depths}
    for trial in range(options.trials):
        facts = draw_facts(haystack, engine.tokenizer, options, length, f"{seed}:{length}:{trial}")
        for asked in facts.questions:
            found[asked.depth].append(_ask(engine, facts.text, asked))
        on_text(length)
    return [
        {
            "length": length,
            "depth": depth,
            "trials": len(results),
            "recalled": round(sum(right for right, _ in results) / len(results), DIGITS),
            "answer_logprob": round(math.fsum(logprob for _, logprob in results) / len(results), DIGITS),
        }
        for depth, results in found.items()
    ]


def _ask(engine: InferenceEngine, text: Sequence[int], asked: Question) -> tuple[bool, float]:
    """Whether every token of the answer is the most likely one, and its log-probability."""
    prompt = [*text, *asked.question]
    entries = engine.score([*prompt, *asked.answer], top=1, start=len(prompt))
    right = all(entry.top[0][0] == token for entry, token in zip(entries, asked.answer, strict=True))
    return right, sum(entry.logprob or 0.0 for entry in entries)


def draw_facts(haystack: Ids, tokenizer: EngineTokenizer, options: RecallOptions, length: int, seed: str) -> Facts:
    """A text with `options.keys` facts at each depth, which with the longest question and answer has `length` tokens.

    The facts of a depth are up to 64 tokens of text apart, and centred on it as far as the text allows. Their keys are
    found nowhere else in the text.

    Raises:
        TooShortError: the facts exceed the length, the haystack is shorter, or contains the keys everywhere.
    """
    rng = random.Random(seed)
    for _ in range(TRIES):
        facts = _facts(tokenizer, options, rng)
        asking = max(len(fact.question) + len(fact.answer) for fact in facts)
        room = length - sum(len(fact.ids) for fact in facts) - asking
        if room < 0:
            raise TooShortError(f"{len(facts)} facts and a question alone take {length - room} tokens")
        if room > len(haystack):
            raise TooShortError(f"the validation text has only {len(haystack)} tokens")
        start = rng.randrange(len(haystack) - room + 1)
        piece = haystack[start : start + room]
        if not any(_contains(piece, fact.question) for fact in facts):
            return _placed(piece, facts, options)
    raise TooShortError("the validation text contains the keys; evaluate on tokens without them")


def _facts(tokenizer: EngineTokenizer, options: RecallOptions, rng: random.Random) -> list[_Fact]:
    statement, count = Statement.of(options.statement), options.keys * len(options.depths)
    keys, values = (rng.sample(words(options.words), count) for words in (key_words, value_words))
    return [
        _Fact(
            *(
                tokenizer.encode(text)
                for text in (statement.question(key), statement.answer(value), statement.end(key))
            ),
        )
        for key, value in zip(keys, values, strict=True)
    ]


def _contains(text: Ids, wanted: Sequence[int]) -> bool:
    """Whether the tokens of a question occur in a text in this order."""
    if len(text) < len(wanted):
        return False
    hits = np.ones(len(text) - len(wanted) + 1, dtype=np.bool_)
    for place, token in enumerate(wanted):
        hits &= text[place : place + len(hits)] == token
    return bool(hits.any())


def _placed(text: Ids, facts: Sequence[_Fact], options: RecallOptions) -> Facts:
    """Insert the facts, in the order of `options.depths`, each between two tokens of the text."""
    gap = min(64, len(text) // max(1, 2 * len(facts)))
    span = (options.keys - 1) * gap
    places = []
    for depth in options.depths:
        first = min(max(0, round(depth * len(text)) - span // 2), len(text) - span)
        places += [(first + number * gap, depth) for number in range(options.keys)]
    order = sorted(range(len(facts)), key=lambda index: (places[index][0], index))
    ids: list[int] = []
    questions: dict[int, Question] = {}
    done = 0
    for index in order:
        place, depth = places[index]
        ids += text[done:place].tolist()
        done = place
        questions[index] = Question(depth, len(ids), facts[index].question, facts[index].answer)
        ids += facts[index].ids
    ids += text[done:].tolist()
    return Facts(ids, [questions[index] for index in range(len(facts))])
