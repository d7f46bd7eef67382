"""Markdown of all blocks of a page, for tests of what is written of them."""

from __future__ import annotations

from resiliparse.parse.html import HTMLTree

from longcat.stages.data.extract.content.blocks import read_blocks
from longcat.stages.data.extract.content.markdown import to_markdown

PROSE = "The harbour lay still in the morning, and the boats that had come in at night were being unloaded. " * 4


def markdown(html: str) -> str:
    blocks = read_blocks(HTMLTree.parse(html).document.html)
    return to_markdown(blocks, [True] * len(blocks.blocks))
