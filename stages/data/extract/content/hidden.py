"""Blocks that a reader of the page does not see.

An element is hidden by the attribute `hidden` (HTML standard, 6.1), `aria-hidden`, `display: none` or
`visibility: hidden` in its style, a class for screen readers or for print alone, and as a `<dialog>` that is not open.
Scripts show some of them: where one of these ways hides much of a page's running text, it is left to the scorer.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from longcat.stages.data.extract.content.block import Blocks
from longcat.stages.data.extract.content.columns import Bools, Floats

_PAIR = re.compile(r'([^\s="]+)(?:="([^"]*)")?')
_OPEN = re.compile(r"(?:^|\s)open(?:=|\s|$)")
_STYLE = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)", re.I)
_CLASSES = re.compile(
    r"(?:sr-?only|(?:visually|element|text)-?hidden|hidden-visually|u-hidden-visually|hide-visually|visuallyhidden|"
    r"screen-?reader(?:-?(?:text|only|content))?|assistive-text|a11y-(?:hidden|only)|element-invisible|"
    r"(?:d-)?print-only|only-print|printonly|print-visible|visible-print(?:-(?:block|inline|inline-block))?|"
    r"d-print-(?:block|inline|inline-block|flex)|show-for-print|show-for-sr|onlyprint|mw-print-only)",
    re.I,
)
# In what hides, without regard to case, which would take several times as long.
_SIGNS = re.compile(r"idden|IDDEN|one|ONE|sr|SR|creen|rint|ssist|11y|nvisib|isually")
# Of the page's running text, by way of hiding.
MOST = 0.15


def hidden_blocks(page: Blocks, running: Floats) -> Bools:
    """Whether each block is hidden; `running` is the characters of running text, by block."""
    with_text = {key for key, start, end in zip(page.keys, page.starts, page.ends, strict=True) if end > start}
    ways = [hidden_by(*kind) if key in with_text else "" for key, kind in enumerate(page.kinds)]
    found = np.zeros(len(page.blocks), bool)
    total = max(float(running.sum()), 1.0)
    for way in sorted(set(filter(None, ways))):
        inside = np.zeros(len(page.blocks), bool)
        for element, key in enumerate(page.keys):
            if ways[key] == way:
                inside[page.starts[element] : page.ends[element]] = True
        if running[inside].sum() <= MOST * total:
            found |= inside
    return found


@lru_cache(maxsize=1 << 13)
def hidden_by(tag: str, attributes: str) -> str:
    """What hides an element's content, from its tag and serialised attributes; empty if nothing does."""
    if tag == "dialog" and not _OPEN.search(attributes):
        return "dialog"
    if not attributes or not _SIGNS.search(attributes):
        return ""
    for name, value in _PAIR.findall(attributes):
        if (
            (name == "hidden" and value != "until-found")
            or (name == "aria-hidden" and value == "true")
            or (name == "style" and _STYLE.search(value))
            or (name == "class" and any(_CLASSES.fullmatch(word) for word in value.split()))
        ):
            return str(name)
    return ""
