"""One file of documents, from text of a tokens artifact; a pure function of its task."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.documents import Document, write_documents
from longcat.pipeline.errors import InputError
from longcat.stages.data.key_values.compose import composed, drawn_facts, places
from longcat.stages.data.key_values.config import KeyValuesConfig
from longcat.stages.formats.tokenizer import Tokenizer, load_tokenizer
from longcat.stages.formats.windows import Ids, open_tokens

SOURCE = "key-values"


@dataclass(frozen=True)
class WriteTask:
    """Write the documents `first` to `end` - 1; `tokens` is the folder of the text, if there is any."""

    first: int
    end: int
    tokens: Path | None
    target: Path
    config: KeyValuesConfig


def write_shard(task: WriteTask) -> dict[str, Any]:
    """Write one file; returns the number of documents and mentions.

    Raises:
        InputError: the facts alone exceed the length, or the text is shorter.
    """
    text = None if task.tokens is None else Text(task.tokens)
    mentions = 0

    def documents() -> Iterator[Document]:
        nonlocal mentions
        for number in range(task.first, task.end):
            document = _document(number, task.config, text)
            mentions += document.metadata["facts"] * task.config.mentions
            yield document

    written = write_documents(task.target, documents())
    return {"documents": written, "mentions": mentions}


def _document(number: int, config: KeyValuesConfig, text: Text | None) -> Document:
    rng = random.Random(f"{config.seed}:{number}")
    facts = drawn_facts(config, rng)
    mentions = places(len(facts), config, rng)
    if text is None or config.length is None:
        body = composed([], facts, mentions)
    else:
        body = text.filled(facts, mentions, config.length, rng)
    return Document(
        id=f"{SOURCE}-{config.seed}-{config.length or 0}-{number}",
        text=body,
        source=SOURCE,
        metadata={"facts": len(facts)},
    )


class Text:
    """Training text of a tokens artifact as one stream, without special tokens, and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokenizer: Tokenizer = load_tokenizer(folder)
        self._tokens = open_tokens(folder, "train").tokens

    def filled(self, facts: list[str], mentions: list[tuple[float, int]], length: int, rng: random.Random) -> str:
        """A document of at most `length` tokens with its end token, in which no more lines of the text fit.

        Raises:
            InputError: the facts alone exceed the length, or the text is shorter.
        """
        sizes = [len(ids) for ids in self._tokenizer.encode_batch(facts)]
        own = 1 + len(self._tokenizer.begin_ids) + sum(sizes[fact] for _, fact in mentions)
        room = length - own
        if room < 0:
            raise InputError(
                f"{len(mentions)} mentions of facts alone take {own} tokens, length is {length}",
                hint="raise length, or lower facts or mentions",
            )
        lines = self._lines(room, rng)
        # A document is tokenised as a whole, which may give a token more than its parts.
        while self._size(text := composed(lines, facts, mentions)) + 1 + len(self._tokenizer.begin_ids) > length:
            if not lines:
                raise InputError(f"{len(mentions)} mentions of facts alone exceed length = {length}")
            lines = lines[:-1]
        return text

    def _lines(self, room: int, rng: random.Random) -> list[str]:
        """Whole lines, one after the other, of at most `room` tokens."""
        if room >= len(self._tokens):
            raise InputError(
                f"the training text has {len(self._tokens):,} tokens, a document needs {room:,}",
                where=str(self._folder),
                hint="lower length, or give tokens with more text",
            )
        start = rng.randrange(len(self._tokens) - room)
        piece: Ids = np.asarray(self._tokens[start : start + room], dtype=np.int64)
        # The first and last line are cut, perhaps within a character.
        return [f"{line}\n" for line in self._tokenizer.decode(piece.tolist(), skip_special=True).split("\n")[1:-1]]

    def _size(self, text: str) -> int:
        return len(self._tokenizer.encode(text))
