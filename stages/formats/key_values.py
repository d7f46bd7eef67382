"""Facts of a made-up key and value, such as `The code of kova is melu.`, for corpora and tests of recall.

Keys and values are made-up words of two syllables, so that no model knows a fact from elsewhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

CONSONANTS, VOWELS = "bdfgkmnprtvz", "aiou"
MOST_WORDS = (len(CONSONANTS) * len(VOWELS)) ** 2 // 2
DEFAULT_STATEMENT = "The code of {key} is {value}."


@lru_cache(maxsize=1)
def _all_words() -> tuple[str, ...]:
    syllables = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
    words = [first + second for first in syllables for second in syllables]
    random.Random("key and value words").shuffle(words)
    return tuple(words)


def key_words(count: int) -> tuple[str, ...]:
    """The first `count` keys, at most `MOST_WORDS`."""
    return _all_words()[:count]


def value_words(count: int) -> tuple[str, ...]:
    """The first `count` values, at most `MOST_WORDS`; none of them is a key."""
    return _all_words()[MOST_WORDS : MOST_WORDS + count]


@dataclass(frozen=True)
class Statement:
    """A sentence with a key and then a value, cut into pieces that are tokens of their own."""

    template: str

    @classmethod
    def of(cls, template: str) -> Statement:
        """Check a template.

        Raises:
            ValueError: it lacks `{key}` or, later and after a space, `{value}`, or several of either before its end.
        """
        before = template.partition(" {value}")[0]
        if template.count("{value}") != 1 or before.count("{key}") > 1:
            raise ValueError(f"{template!r} must have {{value}} once, and {{key}} once before it")
        if "{key}" not in before or " {value}" not in template:
            raise ValueError(f"{template!r} must have {{value}} after {{key}}, with a space before it")
        return cls(template)

    def question(self, key: str) -> str:
        """The sentence up to its value."""
        return self.template.partition(" {value}")[0].replace("{key}", key)

    def answer(self, value: str) -> str:
        """What continues the question."""
        return f" {value}"

    def end(self, key: str) -> str:
        """The sentence after its value, where the key may be repeated."""
        return self.template.partition(" {value}")[2].replace("{key}", key)

    def text(self, key: str, value: str) -> str:
        """The whole sentence."""
        return self.question(key) + self.answer(value) + self.end(key)
