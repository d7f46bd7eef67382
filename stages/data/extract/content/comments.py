"""Sections of reader comments, by the names that comment systems and site generators give them."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from longcat.stages.data.extract.content.block import Blocks
from longcat.stages.data.extract.content.columns import Bools

_NAMES = re.compile(r'\b(?:class|id)="([^"]*)"')
_COMMENTS = re.compile(
    r"(?:(?:user|reader|article|post|blog|entry|page|site|all|the)[-_]?)?comments?"
    r"(?:[-_]*(?:list|area|section|sections|thread|threads|wrap|wrapper|container|block|box|body|holder|feed|app|root|"
    r"module|page|template|form|respond))?|"
    r"commentlist|comments?[-_]?\d+|li[-_]comment[-_]\d+|comment[-_]list[-_]\w+|disqus(?:_thread|-thread|-comments)?|dsq-\w+|"
    r"fb-comments|respond|livefyre\S*|viafoura\S*|coral[-_]?(?:talk|thread|comments?)\S*|spotim\S*|"
    r"hyvor-talk\S*|utterances|giscus|commento|isso-thread|"
    r"kommentare?(?:-?(?:liste|bereich))?|leserkommentare?|commentaires?|comentarios?|comentários?|commenti|reacties|"
    r"komentarze|kommentarer|kommentit|trackbacks?|pingbacks?",
    re.I,
)
_SIGNS = re.compile(
    r"omment|OMMENT|dis[qQ]|dsq|espond|ivefyre|iafoura|oral|potim|yvor|tterances|iscus|isso|eacties|oment|rackback|ingback"
)
_WHOLE = frozenset(("html", "body", "main", "article"))


def comment_blocks(page: Blocks) -> Bools:
    """Whether each block is in a section of reader comments; one with an `<h1>` is not such a section."""
    kinds = [tag not in _WHOLE and is_comments(attributes) for tag, attributes in page.kinds]
    found = np.zeros(len(page.blocks), bool)
    if not any(kinds):
        return found
    titles = np.array([block.tag == "h1" for block in page.blocks])
    for element, key in enumerate(page.keys):
        if kinds[key]:
            inside = slice(page.starts[element], page.ends[element])
            if not titles[inside].any():
                found[inside] = True
    return found


@lru_cache(maxsize=1 << 13)
def is_comments(attributes: str) -> bool:
    """Whether a class or id names a section of comments or a comment."""
    if not attributes or not _SIGNS.search(attributes):
        return False
    return any(_COMMENTS.fullmatch(name) for value in _NAMES.findall(attributes) for name in value.split()[:20])
