"""The marks of markdown that extraction writes, told from the prose they stand on.

They are those of `content.markdown` and of notebooks: `#` of a heading, `-` or a number of a list item, `>` of a
quotation, pipes and the ruled row of a table, single backticks around code, and code in fences of backticks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# A line without marks (None where it is nothing else), and what stands between its blanks. The bullet of a list item
# stays in the line, for it tells that the line is one, and is no word.
Bare = tuple[str | None, list[str]]

_HEADINGS = frozenset("#" * level for level in range(1, 7))
_MARKS = _HEADINGS | {"-", "|", ">"}
# Where none of these is found there are no marks, and no line is looked at.
_SIGNS = re.compile(r"[#|>`]|^[^\S\n]*(?:-|\d+\.)\s", re.MULTILINE)
_RULE = re.compile(r":?-{3,}:?")
_CODE = re.compile(r"`(?<!``)([^`]+)`(?!`)")  # begins with a sign that the search can skip to
_FENCE = re.compile(r"(`{3,})[^`]*")
_DIGITS = 9  # of a list item's number at most, as in CommonMark
_NO_PROSE: Bare = None, []


def find_marks(text: str, lines: Sequence[str], chunks: Sequence[list[str]]) -> dict[int, Bare]:
    """The lines of `text` with marks, by number; `chunks` is what stands between the blanks of each line."""
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
    """A line that is neither blank nor fenced code without its marks; `parts` is what stands between its blanks."""
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
    # Without runs of them, an even number of backticks is pairs.
    if "``" not in line and line.count("`") % 2 == 0:
        return line.replace("`", "")
    return _CODE.sub(r"\1", line)


def _is_number(part: str) -> bool:
    return 1 < len(part) <= _DIGITS + 1 and part[-1] == "." and part[:-1].isdecimal()


def _fenced(lines: Sequence[str]) -> Iterator[int]:
    """Numbers of the lines of fenced code, fences included. A fence that nothing closes is none."""
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
