"""Words as counted by the published rules: those of spaCy's English tokeniser (spaCy 3, MIT licence).

Punctuation is stripped from both ends of a whitespace-separated chunk until a known word or none is left; URLs stay
whole, and the rest is split at punctuation between letters. Longer chunks, which are not words, are split by one
pattern.
"""

from __future__ import annotations

import re
from itertools import product
from unicodedata import category

MAX_CHUNK = 128  # characters; stripping the ends has quadratic cost

_UPPER = "A-ZÀ-ÖØ-ÞΑ-ΩЀ-Я"
_ALPHA = r"[^\W\d_]"
_LOWER = rf"[^\W\d_{_UPPER}]"
_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
# Common parts of category So: Latin-1, symbols and arrows, emoji.
_ICONS = "".join(
    chr(code)
    for code in (*range(0x80, 0x100), *range(0x2000, 0x2C00), *range(0x1F000, 0x1FB00))
    if category(chr(code)) == "So"
)
# Marks of Armenian, Hebrew, Indic, Tibetan, Burmese, Ethiopic, Khmer and East Asian texts, which spaCy's English lacks.
_OTHER_SIGNS = "։՝׃॥།༎༑၊။፡።፣፤፥፦፧፨។៕៖．・"
_SIGNS = frozenset("…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪" + _OTHER_SIGNS + _QUOTES + _ICONS)
_PREFIXES = _SIGNS | frozenset("§%=—–$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿")
_SUFFIXES = _SIGNS | frozenset("—–")
_CLITICS = ("'s", "'S", "’s", "’S")
_BEFORE_STOP = (_SIGNS - frozenset(_ICONS)) | frozenset("%²-+|")
_UNITS = (
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa "
    "mbar mb MB kb KB gb GB tb TB T G M K % US$ C$ A$ $ £ € ¥ ฿ ₽ ₴ ₩ ₪ ₫ ₹ ₺ + "
    "км км² км³ м м² м³ дм см мм нм кг г мг м/с км/ч кПа Па"
)
_AFTER_DIGIT = re.compile(rf"(?<=\d)(?:{'|'.join(map(re.escape, _UNITS.split()))})$")
# Infix pattern. A few ranges are checked first, since most characters are letters and the set of all icons is slow to
# search.
_MAYBE_ICON = "\u00a6-\u00b0\u2000-\u2bff\U0001f000-\U0001faff"
_INFIX = re.compile(
    rf"(?=[.+\-*^,~:<>=/{_MAYBE_ICON}])(?:"
    rf"\.\.+|…|(?<=[0-9])[+\-*^](?=[0-9-])"
    rf"|(?<={_LOWER})\.(?=[{_UPPER}{_QUOTES}])|(?<=[{_QUOTES}])\.(?=[{_UPPER}{_QUOTES}])"
    rf"|(?<={_ALPHA})(?:,|——|---?|[-–—~])(?={_ALPHA})|(?<=[0-9])(?:——|---?|[-–—~])(?={_ALPHA})"
    rf"|(?:(?<={_ALPHA})|(?<=[0-9]))[:<>=/](?={_ALPHA})|[{_ICONS}])"
)
_ADDRESS = re.compile(
    r"(?:[\w+\-.]{2,}://)?(?:\S+(?::\S*)?@)?"
    r"(?:(?:[1-9]\d{0,2})(?:\.\d{1,3}){3}"
    rf"|(?:(?:[A-Za-z0-9¡-\uffff][A-Za-z0-9¡-\uffff_-]{{0,62}})?[A-Za-z0-9¡-\uffff]\.)+{_LOWER}{{2,63}})"
    r"(?::\d{2,5})?(?:[/?#]\S*)?"
)
_LONG = re.compile(r"https?://[^\s<>\"]*[\w/]|\w+(?:[.@/]\w+)*|\.{2,}|--+|[^\w\s]")

_WHOLE = (
    "' \\\") <space> '' C++ ä. ö. ü. ol ol' nothin nuthin somethin doin goin lovin havin doin' goin' lovin' havin' "
    "em 'em ll 'll nuff 'nuff 'S 's ‘S ‘s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am "
    "Ma'am o'clock O'clock Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. "
    "Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. "
    "Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash. Wis. 'd a.m. Adm. Bros. co. Co. Corp. "
    "D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. "
    "Prof. Rep. Rev. Sen. St. vs. v.s. :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} "
    "8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= "
    "=[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD "
    "XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 "
    "o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*)"
)
_PARTS = "let|'s c'm|on can|not gon|na got|ta not|'ve not|ve y'|all"
_PRONOUNS = {
    "i": "'m m 'll ll 'd d 've ve 'll|'ve 'd|'ve",
    "you we they": "'ll ll 'd d 've ve 're re 'll|'ve 'd|'ve",
    "he she it": "'ll ll 'd d 's s 'll|'ve 'd|'ve",
    "who what when where why how there": "'s s 'll ll 're re 've ve 'd d 'll|'ve 'd|'ve",
    "that this": "'s s 'll ll 'd d 'll|'ve 'd|'ve",
    "these those": "'ll ll 're re 've ve 'd d 'll|'ve 'd|'ve",
    "could might must should would": "'ve ve n't nt n't|'ve",
    "ca do does did had may need ought sha wo": "n't nt n't|'ve",
    "ai are is was were have has dare": "n't nt",
}
# Words that look like a pronoun and a clitic.
_NO_CONTRACTIONS = frozenset(["ill", "its", "hell", "shell", "shed", "were", "well", "whore"])


def _known_words() -> dict[str, list[str]]:
    known = {word: [word] for word in _WHOLE.split()}
    known.update({f"{letter}.": [f"{letter}."] for letter in "abcdefghijklmnopqrstuvwxyz"})
    entries = [entry.split("|") for entry in _PARTS.split()]
    for words, endings in _PRONOUNS.items():
        pairs = product(words.split(), endings.split())
        entries += [[word, *ending.split("|")] for word, ending in pairs]
    for parts in entries:
        if "".join(parts) not in _NO_CONTRACTIONS:
            title = [parts[0].capitalize(), *parts[1:]]
            known["".join(parts)], known["".join(title)] = parts, title
    curly = {word: parts for word, parts in known.items() if "'" in word and word[0].isalpha()}
    known.update({word.replace("'", "’"): [part.replace("'", "’") for part in parts] for word, parts in curly.items()})
    hours = product(range(1, 13), ("a.m.", "am", "p.m.", "pm"))
    known.update({f"{hour}{half}": [str(hour), half] for hour, half in hours})
    return known


_KNOWN = _known_words()
_SINGLE = frozenset(word for word, parts in _KNOWN.items() if len(parts) == 1)


def split_chunk(chunk: str) -> list[str]:
    """Words of a whitespace-separated chunk; concatenated they equal the chunk, except above `MAX_CHUNK`."""
    if chunk.isalpha() and chunk not in _KNOWN:
        return [chunk]
    if len(chunk) > MAX_CHUNK:
        return _LONG.findall(chunk)
    start, end, ending = 0, len(chunk), []
    words: list[str] = []
    while start < end:
        rest = chunk[start:end]
        if rest in _KNOWN:
            break
        front = _prefix(rest)
        if front and rest[front:] in _KNOWN:
            words.append(rest[:front])
            start += front
            break
        back = _suffix(rest[front:])
        if not front and not back:
            break
        if back and rest[:-back] in _KNOWN:
            ending.append(rest[-back:])
            end -= back
            break
        if front:
            words.append(rest[:front])
            start += front
        if back:
            ending.append(rest[-back:])
            end -= back
    return _joined([*words, *_inner(chunk[start:end]), *reversed(ending)])


def _joined(words: list[str]) -> list[str]:
    """Merge neighbouring words that form a known word, as in `f(x):`."""
    if len(words) < 2:
        return words
    found: list[str] = []
    at = 0
    while at < len(words):
        two, three = "".join(words[at : at + 2]), "".join(words[at : at + 3])
        size = 3 if three in _SINGLE else 2 if two in _SINGLE else 1
        found.append("".join(words[at : at + size]))
        at += size
    return found


def _inner(text: str) -> list[str]:
    """Words of a chunk without punctuation at its ends."""
    if not text:
        return []
    if text in _KNOWN:
        return _KNOWN[text]
    if text.isalnum() or ("." in text and _ADDRESS.fullmatch(text)):
        return [text]
    words, start = [], 0
    for sign in _INFIX.finditer(text):
        if sign.start() > start:
            words.append(text[start : sign.start()])
        words.append(sign.group())
        start = sign.end()
    if start < len(text):
        words.append(text[start:])
    return words


def _prefix(text: str) -> int:
    """Length of the prefix punctuation, 0 if none."""
    first = text[0]
    if first == ".":
        return _dots(text)
    if first in _PREFIXES:
        return 1
    if first == "+":
        return int(not text[1:2].isdigit())
    if first in "UCA" and text.startswith(("US$", "C$", "A$")):
        return text.index("$") + 1
    return 0


def _suffix(text: str) -> int:
    """Length of the suffix punctuation, 0 if none."""
    if not text:
        return 0
    last = text[-1]
    if last == ".":
        return _dots(text[::-1]) or _full_stop(text)
    if text.endswith(_CLITICS):
        return 2
    if last in _SUFFIXES:
        return 1
    match = _AFTER_DIGIT.search(text)
    return len(match.group()) if match else 0


def _dots(text: str) -> int:
    """Length of the ellipsis at the start of `text`, 0 for a single full stop."""
    count = len(text) - len(text.lstrip("."))
    return count if count > 1 else 0


def _full_stop(text: str) -> int:
    """1 if the final full stop is separate punctuation and not part of an abbreviation."""
    before = text[-2:-1]
    if not before:
        return 0
    if before.isdigit() or before in _BEFORE_STOP or (before.isalpha() and not before.isupper()):
        return 1
    if before > "\u02ff" and category(before) in ("Mn", "Mc"):
        return 1
    return int(before.isupper() and text[-3:-2].isupper())
