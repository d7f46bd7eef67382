"""Splits a page into text blocks, in one pass over the tags of the parsed and serialised page.

The parser (lexbor) repairs the markup; walking its nodes from Python costs several calls per node, while its
serialisation is well formed, so that one regular expression finds all tags and texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

from longcat.stages.data.extract.content import code
from longcat.stages.data.extract.content.block import Block, Blocks
from longcat.stages.data.extract.content.formulas import (
    latex_of_image,
    latex_of_math,
    latex_of_rendered,
    tex_of_script,
)
from longcat.stages.data.extract.content.roles import CONTAINER, COPY
from longcat.stages.data.extract.content.tags import (
    BLOCK,
    BREAK,
    CODE,
    IMAGE,
    KINDS,
    KINDS_WITHOUT_SCRIPTS,
    LINK,
    MARK,
    MATH,
    RENDERED_MATH,
    TABLE,
    TITLE_TAGS,
    VOID,
)
from longcat.stages.data.extract.content.walk import Walk

__all__ = ["Block", "Blocks", "read_blocks"]

# In the serialisation an attribute name may contain quotes, from invalid markup, but a value never does. The second
# form is for text that contains tags, as in <noscript>.
_BLANK = r" \t\n\f\r"
_ATTRIBUTES = rf"((?:[{_BLANK}]=?[^{_BLANK}/>=]++(?:=\"[^\"]*+\")?+)*+[{_BLANK}]*+/?+(?=>)|(?:[^>\"]++|\"[^\"]*+\")*+)"
TOKEN = re.compile(
    rf"([^<]*+)<(?:(script|style)\b{_ATTRIBUTES}>(.*?)</\2>"
    rf"|(/?)([a-zA-Z][^{_BLANK}/>]*+){_ATTRIBUTES}>|!--.*?-->|![^>]*>|\?[^>]*>|)",
    re.DOTALL,
)
FEW_CHARACTERS = 500
FORMULAS: dict[int, Callable[[str], str]] = {MATH: latex_of_math, RENDERED_MATH: latex_of_rendered}


def read_blocks(html: str) -> Blocks:
    """Blocks of a parsed and serialised page, with well-formed tags.

    If a page has almost no text with scripts, its noscript text is used.
    """
    tokens = TOKEN.findall(html)
    blocks = _walk(tokens, KINDS)
    if "<noscript" in html and sum(len(block.text) for block in blocks.blocks) < FEW_CHARACTERS:
        return _walk(tokens, KINDS_WITHOUT_SCRIPTS)
    return blocks


def _walk(tokens: list[tuple[str, ...]], kinds: dict[str, int]) -> Blocks:
    walk = Walk(tokens)
    parts, links = walk.text.parts, walk.text.links
    kind_of = kinds.get
    stream = iter(enumerate(tokens))
    for index, (text, raw_tag, raw_attributes, raw, slash, tag, attributes) in stream:
        # Most texts between tags are line breaks of the markup, which do not start a block.
        if text and (parts or walk.in_pre or not text.isspace()):
            parts.append(text)
            if walk.in_link:
                links.append(text.strip())
        if not tag:
            if raw_tag and "math/" in raw_attributes:
                walk.text.add_source(tex_of_script(raw_attributes, raw))
            continue
        kind = kind_of(tag)
        end = 0  # index of the last token of an element that is finished here
        if kind is None:
            end = _other(walk, index, slash, tag, attributes)
        elif kind > TABLE:
            end = _inline(walk, index, kind, slash, tag, attributes)
        elif slash:
            walk.close(tag)
        else:
            key, bits, roles = walk.make(tag, attributes)
            if roles or kind > BLOCK:
                end = walk.read_whole(index, kind, roles)
            if not end:
                walk.open(tag, attributes, key, bits)
        if end:
            next(islice(stream, end - index, end - index), None)
    return walk.finish()


def _other(walk: Walk, index: int, slash: str, tag: str, attributes: str) -> int:
    """Enter or leave a custom element, or read an inline element for what its attributes say it is."""
    if slash:
        if "-" in tag:
            walk.leave(tag)
    elif "-" in tag:
        if walk.tokens[index - 1][5] == tag:
            walk.text.separate()
        walk.enter(tag, attributes, *walk.make(tag, attributes)[:2])
    elif ":" in tag and tag.endswith(":math"):
        return _formula(walk, index, latex_of_math)
    elif attributes and (roles := walk.inline_role(attributes)) >= COPY:
        return walk.special(index, roles)
    return 0


# A branch per kind of tag, in the order of how often they occur.
def _inline(walk: Walk, index: int, kind: int, slash: str, tag: str, attributes: str) -> int:  # noqa: PLR0912
    inline, end = walk.text, 0
    if kind == LINK:
        walk.in_link += -1 if slash else 1
        if slash:
            if inline.permalink[0] >= 0:
                inline.end_link_in_title()
        elif (walk.stack and walk.stack[-1][4] in TITLE_TAGS) or "headerlink" in attributes:
            inline.permalink = len(inline.parts), attributes
    elif kind == IMAGE:
        inline.add_formula(latex_of_image(attributes))
    elif kind == BREAK:
        inline.parts.append("\n" if walk.in_pre else "\x00")
    elif kind == VOID:
        if tag == "hr":
            walk.flush()
    elif kind == CODE:
        if not walk.in_pre:
            end = _code(walk, index, slash, attributes)
    elif kind == MARK:
        if not walk.in_pre:
            inline.mark(tag, slash)
    elif kind in FORMULAS:
        if not slash:
            end = _formula(walk, index, FORMULAS[kind])
    elif not slash and "shadowrootmode" not in attributes:
        end = code.end_of(walk.tokens, index)
    return end


def _code(walk: Walk, index: int, slash: str, attributes: str) -> int:
    if slash:
        walk.end_code()
    elif attributes and walk.inline_role(attributes) & CONTAINER and (end := walk.end_of(index)):
        return end if walk.add_code(index, end) else 0
    else:
        walk.text.inline_code(slash)
    return 0


def _formula(walk: Walk, index: int, read: Callable[[str], str]) -> int:
    end = code.end_of(walk.tokens, index)
    walk.text.add_formula(read(code.markup(walk.tokens, index, end)))
    return end
