"""What the pass over tags makes of a page: its blocks and the elements around them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Block:
    """A run of text between two block boundaries. `element` is an index into the lists of `Blocks`."""

    text: str
    tag: str
    element: int
    link_characters: int
    depth: int  # of lists for items
    first: bool  # whether it starts its list item, cell or quotation
    number: int | None  # of an item in an ordered list
    near: int  # hint bits of the nearest three elements
    above: int  # hint bits of all enclosing elements


@dataclass(slots=True)
class Blocks:
    """All blocks of a page in order, and for each element: parent, tag, and the range of blocks inside it.

    Elements are the tags that separate blocks, and custom elements, which do not but have telling names. `attributes`
    has those of tables and their cells, `languages` those of code, by element.
    """

    blocks: list[Block] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # of tag and class, equal for elements of the same kind
    attributes: dict[int, str] = field(default_factory=dict)
    languages: dict[int, str] = field(default_factory=dict)
    kinds: list[tuple[str, str]] = field(default_factory=list)  # tag and attributes, by key
    tags_seen: int = 0

    def depths(self) -> list[int]:
        """Number of elements around each element."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(depths[parent] + 1 if parent >= 0 else 0)
        return depths
