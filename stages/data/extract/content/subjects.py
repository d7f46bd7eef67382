"""Subjects of replies in forums, as in "Re: Title", which repeat the title of the page above each post."""

from __future__ import annotations

import re

import numpy as np

from longcat.stages.data.extract.content.block import Block, Blocks
from longcat.stages.data.extract.content.columns import Bools

# Prefixes of mail programs and forums in the languages that have their own.
_REPLY = re.compile(r"(?:re|aw|antw|sv|vs|odp|ynt|ответ|απ|رد|תגובה|回复|回覆|答复|返信|답장)\s*[:：]\s*", re.I)
_TAGS = frozenset(("h2", "h3", "h4", "h5", "h6", "div", "p", "li", "td"))
MOST_CHARACTERS = 200


def reply_subjects(page: Blocks) -> Bools:
    """Whether each block is the linked subject of a reply."""
    return np.array([_is_subject(block) for block in page.blocks], bool)


def _is_subject(block: Block) -> bool:
    found = _REPLY.match(block.text)
    if not found or block.tag not in _TAGS or len(block.text) > MOST_CHARACTERS:
        return False
    return block.link_characters >= len(block.text) - found.end()
