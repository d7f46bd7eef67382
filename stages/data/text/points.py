"""Optional signs of Arabic and Hebrew: vowels and cantillation, written in schoolbooks, poems and scripture alone."""

from __future__ import annotations

import re
import unicodedata

# Hebrew accents and points; Arabic tatweel, harakat, Quranic signs and the small alef.
_POINTS = re.compile(
    "[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]"
)
# Letters with fewer points are of ordinary text: Yiddish has some points, and a language of its own.
_POINTED_SHARE = 0.25


def without_points(text: str) -> str:
    """Text without optional signs."""
    return _POINTS.sub("", text)


def plain_form(word: str) -> str:
    """Word in NFC without optional signs."""
    return word if word.isascii() else unicodedata.normalize("NFC", without_points(word))


def unpointed(text: str) -> str:
    """Text without optional signs if it is pointed throughout, else the text itself."""
    if text.isascii():
        return text
    bare, removed = _POINTS.subn("", text)
    return bare if removed > _POINTED_SHARE * sum(map(str.isalpha, bare)) else text
