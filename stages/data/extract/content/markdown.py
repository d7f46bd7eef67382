"""Kept blocks as Markdown: headings, lists, quotations, code and tables."""

from __future__ import annotations

from collections.abc import Sequence

from longcat.stages.data.extract.content.block import Block, Blocks
from longcat.stages.data.extract.content.inline import BACKTICKS
from longcat.stages.data.extract.content.tables import data_tables, table_markdown
from longcat.stages.data.extract.content.tags import ITEM_TAGS

TOGETHER = frozenset([("li", "li"), ("dt", "dt"), ("dt", "dd"), ("dd", "dd")])
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}


def to_markdown(page: Blocks, keep: Sequence[bool]) -> str:
    """Blocks selected by `keep`, in order, separated by blank lines except items of one list.

    Data tables are written whole if any of their blocks is selected; `tables.keep_tables` selects all or none.
    """
    parts: list[str] = []
    before = ""
    tables = {table.start: table for table in data_tables(page)}
    at, after = 0, 0
    for at, block in enumerate(page.blocks):
        if at < after:
            continue
        if at in tables:
            table = tables[at]
            after = table.end
            if any(keep[at:after]):
                parts.append(("\n\n" if parts else "") + table_markdown(page, table))
                before = ""
            continue
        if not keep[at]:
            continue
        item = _item(page, block)
        if parts:
            parts.append("\n" if (before, item) in TOGETHER else "\n\n")
        parts.append(_block(page, block, item))
        before = item
    return "".join(parts)


def _item(page: Blocks, block: Block) -> str:
    """Tag of a block, or of the item that it is the first paragraph of."""
    if not block.first or block.tag not in ("p", "div"):
        return block.tag
    element = page.parents[block.element]
    while element >= 0 and page.tags[element] not in ITEM_TAGS:
        element = page.parents[element]
    return page.tags[element] if element >= 0 and page.tags[element] in ("dd", "dt") else block.tag


def _block(page: Blocks, block: Block, item: str) -> str:
    text = block.text
    if block.tag == "pre":
        fence = "`" * max(3, 1 + max(map(len, BACKTICKS.findall(text)), default=0))
        number = f"{block.number}.\n" if block.number is not None else ""
        return f"{number}{fence}{page.languages.get(block.element, '')}\n{text}\n{fence}"
    if block.tag in HEADINGS:
        return HEADINGS[block.tag] + " ".join(text.split())
    if item == "dd":
        return (": " if block.first else "  ") + text.replace("\n", "\n  ")
    if block.tag == "li" or (block.depth and block.first and block.tag in ("p", "div")):
        mark = f"{block.number}. " if block.number is not None else "- "
        indent = "  " * max(0, block.depth - 1)
        return indent + (mark if block.first else "  ") + text.replace("\n", "\n" + indent + "  ")
    if block.tag == "blockquote":
        return "> " + text.replace("\n", "\n> ")
    return text
