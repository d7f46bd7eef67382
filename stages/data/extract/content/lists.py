"""Numbers of list items (HTML standard, 4.4.5 and 4.4.8)."""

from __future__ import annotations

import re

from longcat.stages.data.extract.content.block import Block

WHOLE_NUMBER = re.compile(r'\b(start|value)="\s*(-?\d{1,9})')
REVERSED = re.compile(r"\sreversed\b")


class ItemNumbers:
    """Counts the items of one list; those of unordered lists have no numbers."""

    def __init__(self, tag: str, attributes: str, first_block: int) -> None:
        self.ordered = tag == "ol"
        self.first_block = first_block
        self.step = -1 if attributes and REVERSED.search(attributes) else 1
        stated = _stated(attributes)
        self.from_last = self.ordered and self.step < 0 and stated is None
        self.next = 1 if stated is None else stated
        self.items = 0

    def count(self, attributes: str) -> int | None:
        """Number of the next item. In a reversed list without a start, counted from its first, until `finish`."""
        if not self.ordered:
            return None
        stated = _stated(attributes)
        self.items += 1
        if self.from_last:
            return self.items
        number = self.next if stated is None else stated
        self.next = number + self.step
        return number

    def finish(self, blocks: list[Block], depth: int) -> None:
        """Count from the last item, of which the number is 1, if that is what the list says."""
        if self.from_last:
            for block in blocks[self.first_block :]:
                if block.depth == depth and block.number is not None:
                    block.number = self.items + 1 - block.number


def _stated(attributes: str) -> int | None:
    found = WHOLE_NUMBER.search(attributes) if attributes else None
    return int(found[2]) if found else None
