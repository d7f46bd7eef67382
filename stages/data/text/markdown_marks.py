"""Markdown marks written by extraction, separated from prose.

They are those of `content.markdown` and of notebooks: `#` of a heading, `-` or a number of a list item, `>` of a
quotation, pipes and the ruled row of a table, single backticks around code, and code in fences of backticks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# A line without marks (None if it has only marks), and its whitespace-separated parts. The bullet of a list item is
# kept in the line, as its marker, but is not a word.
Bare = tuple[str | None, list[str]]

_HEADINGS = frozenset("#" * level for level in range(1, 7))
_MARKS = _HEADINGS | {"-", "|", ">"}
# If none of these occurs there are no marks, and lines are not checked.
_SIGNS = re.compile(r"[#|>`]|^[^\S\n]*(?:-|\d+\.)\s", re.MULTILINE)
_RULE = re.compile(r":?-{3,}:?")
_CODE = re.compile(r"`(?<!``)([^`]+)`(?!`)")  # starts with a character that the search can skip to
_FENCE = re.compile(r"(`{3,})[^`]*")
_DIGITS = 9  # maximum digits of a list item's number, as in CommonMark
_NO_PROSE: Bare = None, []


def find_marks(text: str, lines: Sequence[str], chunks: Sequence[list[str]]) -> dict[int, Bare]:
    """Lines of `text` with marks, by index; `chunks` are the whitespace-separated parts of each line."""
    if not _SIGNS.search(text):
        return {}
    found: dict[int, Bare] = dict.fromkeys(_fenced(lines), _NO_PROSE) if "```" in text else {}
    first = [parts[0] if parts else "" for parts in chunks]
    marked = [at for at, part in enumerate(first) if part in _MARKS or (part[-1:] == "." and _is_number(part))]
    if "`" in text:
        marked += [at for at, line in enumerate(lines) if "`" in line]
    for at in marked:
        if at not in found:
            found[at] = bare_line(lines[at], chunks[at])
    return found


def bare_line(line: str, parts: list[str]) -> Bare:
    """A line (neither blank nor fenced code) without its marks; `parts` are its whitespace-separated parts."""
    if parts[0] == ">":
        quoted = next((at for at, part in enumerate(parts) if part != ">"), len(parts))
        if quoted == len(parts):
            return "", []
        line, parts = line.split(None, quoted)[quoted], parts[quoted:]
    listed = False
    if len(parts) > 1:
        first = parts[0]
        if first == "|" and parts[-1] == "|":
            parts = [part for part in parts if part != "|"]
            if all(map(_RULE.fullmatch, parts)):
                return _NO_PROSE
            line = " ".join(parts)
        elif first == "-":
            listed, parts = True, parts[1:]
        elif first in _HEADINGS or _is_number(first):
            line, parts = line.lstrip()[len(first) :].lstrip(), parts[1:]
    if "`" in line:
        line = _without_spans(line)
        parts = line.split()[listed:]
    return line, parts


def _without_spans(line: str) -> str:
    # Without runs, an even number of backticks forms pairs.
    if "``" not in line and line.count("`") % 2 == 0:
        return line.replace("`", "")
    return _CODE.sub(r"\1", line)


def _is_number(part: str) -> bool:
    return 1 < len(part) <= _DIGITS + 1 and part[-1] == "." and part[:-1].isdecimal()


def _fenced(lines: Sequence[str]) -> Iterator[int]:
    """Indices of lines of fenced code, including fences. An unclosed fence is ignored."""
    opened, fence = -1, ""
    for number, raw in enumerate(lines):
        line = raw.strip()
        if not line.startswith("```"):
            continue
        if fence:
            if line.startswith(fence) and not line.strip("`"):
                yield from range(opened, number + 1)
                fence = ""
        elif match := _FENCE.fullmatch(line):
            opened, fence = number, match.group(1)
