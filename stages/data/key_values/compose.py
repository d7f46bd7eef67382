"""One document of facts, each stated several times, among lines of other text.

    ... kova melu ... bati zuro ... kova melu ... [end:] bati zuro, kova melu, ...

The value of a fact can be known from its second mention on, and only from one before. Mentions are anywhere in the text
and at its end, so the distances to be bridged reach from a line to the whole document.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from longcat.stages.data.key_values.config import KeyValuesConfig
from longcat.stages.formats.key_values import Statement, key_words, value_words


def drawn_facts(config: KeyValuesConfig, rng: random.Random) -> list[str]:
    """Sentences of a document's facts: different keys, different values."""
    statement, count = Statement.of(config.statement), rng.randint(config.fewest, config.facts)
    keys, values = (rng.sample(words(config.words), count) for words in (key_words, value_words))
    return [statement.text(key, value) for key, value in zip(keys, values, strict=True)]


def places(facts: int, config: KeyValuesConfig, rng: random.Random) -> list[tuple[float, int]]:
    """Place in the text, from 0 to 1, and number of the fact of every mention, in order; those at the end are at 1.

    Places are uniform, so how lately a fact was mentioned tells nothing about which is mentioned next.
    """
    found: list[tuple[float, int]] = []
    at_end: list[int] = []
    for fact in range(facts):
        for mention in range(config.mentions):
            if mention and rng.random() < config.at_end:
                at_end.append(fact)
            else:
                found.append((rng.random(), fact))
    rng.shuffle(at_end)
    return [*sorted(found), *((1.0, fact) for fact in at_end)]


def composed(lines: Sequence[str], facts: Sequence[str], mentions: Sequence[tuple[float, int]]) -> str:
    """The text of a document: every mention before the line at its place."""
    parts: list[str] = []
    done = 0
    for place, fact in mentions:
        line = min(len(lines), int(place * (len(lines) + 1)))
        parts += lines[done:line]
        done = max(done, line)
        parts.append(facts[fact])
    return "".join([*parts, *lines[done:]])
