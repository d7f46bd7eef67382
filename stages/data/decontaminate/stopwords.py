"""English stop words, also without apostrophe, and those of other scripts and with accents from the filter's files."""

from __future__ import annotations

from functools import cache

from longcat.stages.data.decontaminate.word_stream import words_of
from longcat.stages.data.rules.by_language import rule_files

_ENGLISH = frozenset(
    (
        b"a about after again all also an and any are as at be because been before being but by can could did do does "
        b"each for from had has have having he her here him his how i if in into is it its just me more most my no nor "
        b"not of off on once only or other our out over own s same she should so some such t than that the their them "
        b"then there these they this those through to too under until up very was we were what when where which while "
        b"who whom why will with would you your yours d ll m re ve"
    ).split()
)


@cache
def stop_words() -> frozenset[bytes]:
    """Stop words as `words_of` gives them.

    Without words of other languages in ASCII, which may be words with a meaning in English (`die`, `also`).
    """
    found = set(_ENGLISH)
    for content in rule_files().values():
        words = content["rules"].get("gopher_quality", {}).get("stop_words", ())
        found.update(part for word in words if not word.isascii() for part in words_of(word))
    return frozenset(found)
