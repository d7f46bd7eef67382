"""Needle in a haystack: a fact hidden at a known depth of validation text, queried at the end.

    [haystack ... "The access code of Lisbon is" " 48213" "." ... haystack] "The access code of Lisbon is" -> " 48213"

The answer is drawn from `candidates` numbers with equal token counts, so a model that ignores the needle ranks it first
with probability 1 / candidates; this also measures models too weak to write the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from longcat.pipeline.tokens import TokenFile
from longcat.stages.formats.windows import Ids
from longcat.stages.inference.tokenizer import EngineTokenizer

PLACES = (
    *("Lisbon", "Oslo", "Nairobi", "Quito", "Hanoi", "Vienna", "Ottawa", "Lima", "Cairo", "Athens"),
    *("Dublin", "Manila", "Bogota", "Prague", "Tunis", "Riga"),
)
SEPARATOR = "\n\n"
LARGEST_NUMBER = 100_000
# Maximum draws per candidate for one with the right number of tokens.
TRIES = 100
# Enough for any length, and small in memory: maximum haystack tokens.
HAYSTACK_TOKENS = 1 << 22


@dataclass(frozen=True)
class Needle:
    """A fact in tokens: `statement` + answer + `end` is inserted into the haystack, `question` appended."""

    statement: list[int]
    end: list[int]
    question: list[int]
    candidates: list[list[int]]
    answer: int

    @property
    def answer_ids(self) -> list[int]:
        return self.candidates[self.answer]

    @property
    def fact(self) -> list[int]:
        """Tokens of the hidden statement."""
        return [*self.statement, *self.answer_ids, *self.end]

    @property
    def tokens(self) -> int:
        """Number of tokens of fact, question and answer."""
        return len(self.fact) + len(self.question) + len(self.answer_ids)


@dataclass(frozen=True)
class Case:
    """One prompt; `position` is the number of haystack tokens before the needle."""

    prompt: list[int]
    needle: Needle
    position: int


def read_haystack(tokens: TokenFile, tokenizer: EngineTokenizer) -> Ids:
    """Validation documents as one text: special tokens removed, documents separated by an empty line."""
    special = np.array(sorted(tokenizer.special_ids), dtype=np.int64)
    separator = np.array(tokenizer.encode(SEPARATOR), dtype=np.int64)
    pieces, total = [], 0
    for number in range(tokens.n_documents):
        document = np.asarray(tokens.document(number), dtype=np.int64)
        pieces += [document[~np.isin(document, special)], separator]
        total += len(pieces[-2]) + len(separator)
        if total >= HAYSTACK_TOKENS:
            break
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


def make_needle(tokenizer: EngineTokenizer, candidates: int, rng: random.Random) -> Needle:
    """Draw a place and its access code.

    Raises:
        ValueError: the tokenizer has fewer numbers of one length than `candidates` (never for digit tokens).
    """
    sentence = f"{SEPARATOR}The access code of {rng.choice(PLACES)} is"
    statement = tokenizer.encode(sentence)
    found: list[list[int]] = []
    for _ in range(TRIES * candidates):
        number = tokenizer.encode(f" {rng.randrange(LARGEST_NUMBER // 10, LARGEST_NUMBER)}")
        if number not in found and (not found or len(number) == len(found[0])):
            found.append(number)
        if len(found) == candidates:
            return Needle(statement, tokenizer.encode(f".{SEPARATOR}"), statement, found, rng.randrange(candidates))
    raise ValueError(f"the tokenizer writes fewer than {candidates} five-digit numbers with equally many tokens")


def build_case(haystack: Ids, needle: Needle, length: int, depth: float, start: int) -> Case:
    """Build a prompt that with its answer has exactly `length` tokens; its haystack starts at `start`.

    The needle is inserted after `round(depth * h)` of the h haystack tokens that fit.
    """
    room = length - needle.tokens
    position = round(depth * room)
    text = haystack[start : start + room].tolist()
    return Case([*text[:position], *needle.fact, *text[position:], *needle.question], needle, position)


def draw_cases(
    haystack: Ids, tokenizer: EngineTokenizer, *, length: int, depth: float, trials: int, candidates: int, seed: int
) -> Iterator[Case]:
    """Cases of one length and depth; the same for every checkpoint and independent of other lengths.

    Raises:
        TooShortError: needle and question exceed the length, or the haystack is shorter than the length.
    """
    for trial in range(trials):
        rng = random.Random(f"{seed}:{length}:{depth!r}:{trial}")
        needle = make_needle(tokenizer, candidates, rng)
        room = length - needle.tokens
        if room < 0:
            raise TooShortError(f"needle and question alone take {needle.tokens} tokens")
        if room > len(haystack):
            raise TooShortError(f"the validation text has only {len(haystack)} tokens")
        yield build_case(haystack, needle, length, depth, rng.randrange(len(haystack) - room + 1))


class TooShortError(Exception):
    """The length is too short or the haystack too small."""


@dataclass(frozen=True)
class NeedleOutcome:
    """Result of one case: rank of the answer among the candidates (1 is best), and the generated text."""

    rank: int
    exact: bool
    logprob: float


def rank_of(scores: Sequence[float], answer: int) -> int:
    """Rank of `answer`, 1 for the highest score; equal scores count against it."""
    return 1 + sum(1 for index, score in enumerate(scores) if index != answer and score >= scores[answer])
