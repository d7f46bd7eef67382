"""Inline elements that carry meaning, as marks in the text of a block until it is complete.

Superscripts and subscripts are written as `^{...}` and `_{...}`, which no reader confuses with digits on the line;
references to notes as `[1]`, ordinal endings and trademarks as usual in plain text. Deleted text is between `~~`.
"""

from __future__ import annotations

import re

CODE, CODE_END, ABOVE, BELOW, SCRIPT_END, DELETED, DELETED_END, PERMALINK = map(chr, range(1, 9))
MARKS = re.compile(r"[\x01-\x08]")
CODE_SPAN = re.compile(r"\x01([^\x01\x02]*)\x02")
SCRIPT = re.compile(r"([\x03\x04])([^\x03-\x05]*)\x05")
DELETION = re.compile(r"\x06([^\x06\x07]*)\x07")
PERMALINKS = re.compile(r"\x08[^\x08]*\x08")
BACKTICKS = re.compile(r"`+")

MAX_SCRIPT_CHARACTERS = 60  # longer ones are small print
MAX_NESTED_SCRIPTS = 5
SIGNS = {"tm": "™", "sm": "℠", "®": "®", "©": "©", "™": "™", "℠": "℠", "°": "°", "º": "º", "ª": "ª"}
# Ends of ordinal numbers and abbreviations, in English, French, Spanish, Portuguese, Italian and Dutch.
ENDING = re.compile(
    r"(?:\d(?:st|nd|rd|th|er|ère|re|ème|eme|ers|ième|de|nds|ro|do|ra|da|mo|to)|[IVXLCDM](?:e|er|re|ème|ième|es|th)"
    r"|M(?:me|mes|lle|lles|gr)|\b[Nn](?:o|os))$"
)
BRACKETED = re.compile(r"\[[^\[\]]*\]$")

PERMALINK_TEXT = re.compile(
    r"(?:permalink|(?:permanent |direct |copy |section |anchor |heading |self-?)?link|anchor)(?:\s+(?:to|for)\b.*)?\W?$"
    r"|section titled\b.*$|\[?edit(?: source| section| this section)?\]?$"
    r"|(?:#+|[¶§🔗⚓∞☍❡\uf0c1\ue157])[\ufe0e\ufe0f]?$|[\u200b\u2060\ufeff]+$",
    re.I | re.S,
)
PERMALINK_CLASS = re.compile(
    r'\bclass="[^"]*(?<![\w])(?:headerlink|anchor|permalink|header-?anchor|anchorjs-link|hash-?link|direct-?link|'
    r"heading-?(?:anchor|link)|octicon-link|anchor-?link|section-?link|toc-anchor|deep-?link|self-?link|edit)",
    re.I,
)
OWN_PAGE = re.compile(r'\bhref="(?:#|[^"]*[?&;]action=edit)')
EMPTY_BRACKETS = re.compile(r"\[\s*\]")

# Outer and inner quotation marks by language (CLDR 45).
QUOTES = {
    "de": "„“‚‘", "cs": "„“‚‘", "sk": "„“‚‘", "sl": "„“‚‘", "is": "„“‚‘", "lt": "„“„“", "bg": "„“„“", "et": "„“„“",
    "pl": "„”«»", "hu": "„”»«", "ro": "„”«»", "hr": "„”‚’", "sr": "„”‚’", "fr": "«»«»", "es": "«»“”", "it": "«»“”",
    "pt": "“”‘’", "ca": "«»“”", "no": "«»‘’", "nb": "«»‘’", "nn": "«»‘’", "ru": "«»„“", "uk": "«»„“", "be": "«»„“",
    "el": "«»“”", "fa": "«»‹›", "sv": "””’’", "fi": "””’’", "ja": "「」『』", "ar": "”“’‘", "he": "””’’", "da": "“”‘’",
}  # fmt: skip
DEFAULT_QUOTES = "“”‘’"


def code_span(text: str) -> str:
    """Inline code, between more backticks than it contains in a row."""
    runs = BACKTICKS.findall(text)
    if not runs:
        return f"`{text}`"
    fence = "`" * (max(map(len, runs)) + 1)
    return f"{fence} {text} {fence}" if text[0] == "`" or text[-1] == "`" else f"{fence}{text}{fence}"


def is_permalink(text: str, attributes: str) -> bool:
    """Whether a link in a heading leads to the heading itself or to its editor."""
    text = text.strip()
    if not PERMALINK_TEXT.match(text):
        return False
    return len(text) <= 2 or bool(OWN_PAGE.search(attributes) or PERMALINK_CLASS.search(attributes))


def resolve(text: str) -> str:
    """A block's text with Markdown instead of marks; marks without a partner are removed."""
    if PERMALINK in text:
        rest = EMPTY_BRACKETS.sub("", PERMALINKS.sub("", text))
        text = rest if MARKS.sub("", rest).strip() else text  # a heading may consist of one sign
    for _ in range(MAX_NESTED_SCRIPTS):
        if SCRIPT_END not in text:
            break
        text = SCRIPT.sub(_script, text)
    text = CODE_SPAN.sub(lambda found: code_span(MARKS.sub("", found[1])) if found[1].strip() else found[1], text)
    text = DELETION.sub(_deletion, text)
    return MARKS.sub("", text)


def _script(found: re.Match[str]) -> str:
    inside = found[2]
    plain = MARKS.sub("", inside).strip()
    before = MARKS.sub("", found.string[: found.start()])[-8:]
    if not plain or len(plain) > MAX_SCRIPT_CHARACTERS or not before.strip():
        return inside
    if found[1] == BELOW:
        return f"_{{{plain}}}"
    if sign := SIGNS.get(plain.lower()):
        return sign
    if BRACKETED.match(plain) or ENDING.search(before + plain):
        return inside
    return f"^{{{plain}}}"


def _deletion(found: re.Match[str]) -> str:
    inside = found[1]
    text = inside.strip()
    if not text:
        return inside
    start = inside.index(text)
    return f"{inside[:start]}~~{text}~~{inside[start + len(text) :]}"
