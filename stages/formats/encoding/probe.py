"""Texts and a vocabulary that show whether two libraries cut text into the same pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from longcat.stages.formats.encoding.support import byte_letters

# Short texts with every kind of character and of boundary between pieces, for a tokenizer not seen before.
PROBES = (
    "",
    " ",
    "The 1st naïve e\u0301 café,\n\tif x == 'ab': 日本語 \U0001f642 ",
    "It's WE'LL they'Re 'd 'ſ don't''s",
    "  two  spaces\t\ttabs \t mixed \u00a0\u3000 wide\u2028line",
    "a\r\n\r\nb\n\n  c\n \n d \n",
    "1234567890 3.14 ²³ ½ Ⅷ ٣٤٥ 〇一二三",
    "!!! ... --- ?! #$%&@ «»“”‘’…—\n\n*** \r\n",
    "中文 汉字,一二。 　　段落\n  缩进「引」々〆",
    "ひらがなカタカナｶﾞｰラーメン ー「ー」aー 東ー 1ー ㌔㋐",
    "한국어 조선말 각 กำลังเรียน मानकीकृत हिन्दी العَرَبِيَّة עִבְרִית Ελληνικά Русский",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 \u200d\u200b\ufeff",
    "\x00\x01\x1b\x1c\x1f\x7f\x80\x85\u00ad\ufffd\ufffe\U0010fffd",
    "<s></s><|endoftext|><longcat_s> </longcat_s><pad>[CLS][INST]",
    "snake_case camelCase HTTPServer x=y+1;\t// comment\n\treturn f(a,b)[0]",
    "a" * 300 + " " * 300 + "1" * 30 + "\n" * 30 + "é" * 100 + "字" * 100,
)


def paired(state: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """A tokenizer.json with the pre-tokenizer of `state` that merges every two bytes that are together in `texts`.

    With a trained vocabulary a wrong bound between pieces remains unseen where no merge is across it.
    """
    letters = byte_letters()
    seen = {(one, two) for text in texts for one, two in pairwise(text.encode())}
    merges = [[letters[one], letters[two]] for one, two in sorted(seen)]
    tokens = [*letters, *("".join(pair) for pair in merges)]
    model = {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": merges}
    return {**state, "added_tokens": [], "post_processor": None, "model": model}
