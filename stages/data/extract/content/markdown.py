"""Kept blocks as markdown: headings, lists, quotations, code and tables."""

from __future__ import annotations

from collections.abc import Sequence

from longcat.stages.data.extract.content.blocks import Block, Blocks

CODE_MARKS = str.maketrans({"\x01": "`", "\x02": "`"})
NO_MARKS = str.maketrans({"\x01": None, "\x02": None})
HEADINGS = {f"h{level}": "#" * level + " " for level in range(1, 7)}
CELLS = frozenset(("td", "th"))


def to_markdown(page: Blocks, keep: Sequence[bool]) -> str:
    """The blocks that `keep` names, in order, with a blank line between all but the items of one list."""
    parts: list[str] = []
    before: Block | None = None
    plain: set[int] = set()  # tables that are layout and not data
    blocks = [block for block, kept in zip(page.blocks, keep, strict=True) if kept]
    at = 0
    while at < len(blocks):
        block = blocks[at]
        table = _around(page, block.element, "table") if block.tag in CELLS else -1
        if table >= 0 and table not in plain:
            text, end = _table(page, blocks, at, table)
            if text:
                parts.append(("\n\n" if parts else "") + text)
                before, at = None, end
                continue
            plain.add(table)
        if parts:
            together = before is not None and before.tag == block.tag and block.tag in ("li", "dt", "dd")
            parts.append("\n" if together else "\n\n")
        parts.append(_block(block))
        before = block
        at += 1
    return "".join(parts)


def _block(block: Block) -> str:
    if block.tag == "pre":
        fence = "````" if "```" in block.text else "```"
        return f"{fence}\n{block.text.translate(NO_MARKS)}\n{fence}"
    text = block.text.translate(CODE_MARKS)
    if block.tag in HEADINGS:
        return HEADINGS[block.tag] + " ".join(text.split())
    if block.tag == "li" or (block.depth and block.first and block.tag in ("p", "div")):
        mark = f"{block.number}. " if block.number else "- "
        indent = "  " * max(0, block.depth - 1)
        return indent + (mark if block.first else "  ") + text.replace("\n", "\n" + indent + "  ")
    if block.tag == "blockquote":
        return "> " + text.replace("\n", "\n> ")
    return text


def _table(page: Blocks, blocks: list[Block], start: int, table: int) -> tuple[str, int]:
    """A table as markdown and the index behind it; no text where a cell holds several blocks or there are few cells."""
    rows: dict[int, list[str]] = {}
    cells: set[int] = set()
    at = start
    while at < len(blocks) and blocks[at].tag in CELLS and _around(page, blocks[at].element, "table") == table:
        cell = _around(page, blocks[at].element, blocks[at].tag)
        if cell in cells:
            return "", start
        cells.add(cell)
        text = " ".join(blocks[at].text.translate(CODE_MARKS).split()).replace("|", "\\|")
        rows.setdefault(_around(page, cell, "tr"), []).append(text)
        at += 1
    width = max(map(len, rows.values()))
    if len(rows) < 2 or width < 2:
        return "", start
    lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in rows.values()]
    lines.insert(1, "|" + " --- |" * width)
    return "\n".join(lines), at


def _around(page: Blocks, element: int, tag: str) -> int:
    """The nearest element of a tag around an element, itself included; -1 where there is none."""
    while element >= 0 and page.tags[element] != tag:
        element = page.parents[element]
    return element
