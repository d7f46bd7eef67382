"""English words that say nothing of what a text is about, and what is left of them when the apostrophe is dropped."""

from __future__ import annotations

STOPWORDS = frozenset(
    (
        b"a about after again all also an and any are as at be because been before being but by can could did do does "
        b"each for from had has have having he her here him his how i if in into is it its just me more most my no nor "
        b"not of off on once only or other our out over own s same she should so some such t than that the their them "
        b"then there these they this those through to too under until up very was we were what when where which while "
        b"who whom why will with would you your yours d ll m re ve"
    ).split()
)
