"""Lists of links and breadcrumbs in parts of the page that say they are navigation, whatever the scores are."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from longcat.stages.data.extract.content.block import Blocks
from longcat.stages.data.extract.content.columns import Bools, Floats

# ARIA landmarks and widgets that lead to other pages or repeat on all pages of a site.
_ROLE = re.compile(r'\brole="(?:navigation|menu|menubar|search|banner|contentinfo)"')
_BREADCRUMBS = re.compile(r'\b(?:class|id|aria-label)="(?:[^"]*[^"a-z])?bread-?crumbs?(?![a-z])', re.I)
LINKED = 0.6  # of its characters; other text in such an element is left to the scorer
MOST_OF_BREADCRUMBS = 300  # characters
MOST = 0.3  # of the page's characters; a page of links is its own text


def navigation_blocks(page: Blocks, characters: Floats, links: Floats) -> Bools:
    """Whether each block is in a navigation of links; `characters` and `links` count characters by block."""
    kinds = [navigation_of(tag, attributes) for tag, attributes in page.kinds]
    found = np.zeros(len(page.blocks), bool)
    most = MOST * float(characters.sum())
    for element, key in enumerate(page.keys):
        if kinds[key]:
            inside = slice(page.starts[element], page.ends[element])
            size = float(characters[inside].sum())
            short = kinds[key] == "breadcrumbs" and size <= MOST_OF_BREADCRUMBS
            if size < most and (short or float(links[inside].sum()) > LINKED * size):
                found[inside] = True
    return found


@lru_cache(maxsize=1 << 13)
def navigation_of(tag: str, attributes: str) -> str:
    """`breadcrumbs`, `navigation`, or nothing: what an element says it is by its tag, role and names."""
    if ("rumb" in attributes or "RUMB" in attributes) and _BREADCRUMBS.search(attributes):
        return "breadcrumbs"
    return "navigation" if tag == "nav" or ('role="' in attributes and _ROLE.search(attributes)) else ""
