"""Prompts of a load test: random ones of a chosen length, or those of a file."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.bench.serve.options import API, LoadOptions

MAX_LINE_BYTES = 4 << 20
MAX_PROMPTS = 100_000
Prompt = dict[str, Any]


class RandomText:
    """Random words of two syllables; no two prompts begin alike, so that no cache can help."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def words(self, count: int) -> str:
        return " ".join(self._syllable() + self._syllable() for _ in range(max(1, count)))

    def _syllable(self) -> str:
        return self._random.choice("bdfgklmnprstv") + self._random.choice("aeiou")


def as_prompt(text: str, api: API) -> Prompt:
    """The field of a request that holds a text."""
    return {"messages": [{"role": "user", "content": text}]} if api == "chat" else {"prompt": text}


def random_texts(api: API, words: int, seed: int) -> Iterator[Prompt]:
    """Endless random texts."""
    text = RandomText(seed)
    while True:
        yield as_prompt(text.words(words), api)


def random_ids(vocabulary: int, tokens: int, seed: int) -> Iterator[Prompt]:
    """Endless prompts of `tokens` random token ids."""
    source = random.Random(seed)
    while True:
        yield {"prompt": [source.randrange(vocabulary) for _ in range(tokens)]}


def words_for(tokens: int, first: tuple[int, int], second: tuple[int, int]) -> int:
    """Words that make a prompt of `tokens` tokens, from two measurements (words, tokens)."""
    per_word = (second[1] - first[1]) / (second[0] - first[0])
    if per_word <= 0:
        return tokens
    return max(1, round(second[0] + (tokens - second[1]) / per_word))


def read_prompts(options: LoadOptions, path: Path) -> Iterator[Prompt]:
    """The prompts of a JSON Lines file, over and over.

    A line is an object with `prompt` (a text; token ids for completions) or `messages` (chat), and optionally further
    fields of the request such as `max_tokens`.

    Raises:
        InputError: the file cannot be read, is empty, too large, or a line is something else.
    """
    try:
        with path.open("rb") as file:
            lines = list(islice(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), MAX_PROMPTS + 1))
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path)) from error
    if len(lines) > MAX_PROMPTS:
        raise InputError(f"more than {MAX_PROMPTS} lines", where=str(path))
    prompts = [_parse(line, options.api, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise InputError("the file has no prompts", where=str(path))
    return cycle(prompts)


def _parse(line: bytes, api: API, where: str) -> Prompt:
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"the line has more than {MAX_LINE_BYTES} bytes", where=where)
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError("not JSON", where=where) from error
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        raise InputError('not an object with "prompt" or "messages"', where=where)
    if api == "completions" and "messages" in value:
        raise InputError('"messages" are for the chat API', where=where, hint="--api chat")
    if api == "chat" and "prompt" in value:
        if not isinstance(value["prompt"], str):
            raise InputError('"prompt" is not a text', where=where, hint="token ids are for --api completions")
        return as_prompt(value.pop("prompt"), api) | value
    return value
