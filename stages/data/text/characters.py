"""Classes of characters that several rules and counts share."""

from __future__ import annotations

import string
from functools import cache
from unicodedata import category

# Unicode's property Sentence_Terminal, the shads of Tibetan and the Khmer signs that end a text, as ranges of code
# points in hex.
_SENTENCE_TERMINAL = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 f0d-f12 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d6
17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f 1c3b-1c3c 1c7e-1c7f 2024 203c-203d
2047-2049 2cf9-2cfb 2e2e 2e3c 2e53-2e54 2e60-2e61 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9
aa5d-aa5f aaf0-aaf1 abeb fe12 fe15-fe16 fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89
11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239 1123b-1123c 112a9 113d4-113d5
1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42
11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16d6e-16d6f 16e98 1bc9f 1da88
"""


def _characters(ranges: str) -> frozenset[str]:
    found: set[str] = set()
    for item in ranges.split():
        first, _, last = item.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)


SENTENCE_TERMINALS = _characters(_SENTENCE_TERMINAL)

# Punctuation of other scripts than Latin: Armenian to Ethiopic and on to Mongolian, East Asian and full width.
_FOREIGN_PUNCTUATION = frozenset(
    chr(code)
    for code in (*range(0x530, 0x1E00), *range(0x2E80, 0xAC00), *range(0xFB00, 0xFFF0))
    if category(chr(code))[0] == "P"
)

# A word of only these characters counts as a symbol, not as a word.
SYMBOLS = (
    SENTENCE_TERMINALS
    | _FOREIGN_PUNCTUATION
    | frozenset(string.punctuation)
    | frozenset("«»–—’“”„…´∶━►、〈〉《》「」【】％（），：；～")
    | frozenset(chr(code) for code in (*range(32), *range(127, 160)))
)

# Letters and their marks of scripts written without blanks between words, as bodies of a class in a regular expression.
# The words of these are found by a dictionary: Han, kana, Thai, Lao, Myanmar and Khmer.
UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ebd\u0ec0-\u0ece\u0edc-\u0edf"
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f"
    "\u1780-\u17d3\u17d7\u17dc\u17dd"
    "\u3005\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002fa1f\U00030000-\U000323af"
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\U0001aff0-\U0001b167"
)
# Those without a dictionary, where each letter with its marks counts as a word: Tai Le, New Tai Lue, Tai Tham, Tai
# Viet, Ahom, Javanese, Balinese, Yi, Tangut, Khitan and Nushu.
ALONE = (
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7c\u1aa7\uaa80-\uaac2\uaadb-\uaadd\U00011700-\U0001172b"
    "\ua980-\ua9c0\u1b00-\u1b4c\ua000-\ua48c\U00017000-\U00018cff\U00018d00-\U00018d7f\U0001b170-\U0001b2fb"
)
# Marks that end a sentence in other scripts than Latin, and the closing quotes and brackets that English does not use.
FOREIGN_TERMINALS = SENTENCE_TERMINALS - frozenset(".?!")
CLOSERS = "»›」』）〉》】〕〗〙﹂﹄］｝｠｣"
GREEK = "\u0370-\u03ff\u1f00-\u1fff"
# Letters and digits of Thai and Lao, which have no mark for the end of a sentence: a blank separates sentences.
UNMARKED = "\u0e01-\u0e4e\u0e50-\u0e59\u0e81-\u0ecd\u0ed0-\u0ed9\u0edc-\u0edf"
# Join or separate the letters on both sides without ending the word (ZWNJ, ZWJ).
JOINERS = "\u200c\u200d"

# Kinds of characters, as bits; here, so that rules are described without numpy.
# For words: outside; part of a word between blanks; of a script without blanks, with a dictionary and without; marks
# and joiners, which take the class of the character before them.
OUTSIDE, RUN, CUT, SINGLE, JOINED = 0, 1, 2, 4, 8
# For sentences: marks that end one, closing quotes and brackets, Greek letters, letters of scripts without such marks.
TERMINAL, CLOSER, GREEK_LETTER, UNMARKED_LETTER = 16, 32, 64, 128


@cache
def marks() -> str:
    """Combining marks (categories Mn and Mc), as the body of a class: they belong to the letter before them.

    Without the variation selectors of emoji and digits (U+FE00 to U+FE0F), which are no part of a word.
    """
    # Between these ranges there are no marks.
    every = (*range(0x300, 0xFE00), *range(0xFE10, 0x20000), *range(0xE0100, 0xE01F0))
    codes = [code for code in every if category(chr(code)) in ("Mn", "Mc")]
    starts = [code for code, before in zip(codes, [-2, *codes], strict=False) if code != before + 1]
    ends = [code for code, after in zip(codes, [*codes[1:], -2], strict=True) if after != code + 1]
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in zip(starts, ends, strict=True))
