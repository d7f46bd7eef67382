"""Features of each block: text, elements, surroundings and page."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.stages.data.extract.content.block import Blocks
from longcat.stages.data.extract.content.columns import Floats, scaled_log, side_by_side
from longcat.stages.data.extract.content.hints import NAMES
from longcat.stages.data.extract.content.phrases import TOPICS
from longcat.stages.data.extract.content.sections import section_features
from longcat.stages.data.extract.content.text_facts import VALUES, WORD, text_facts

TAG_GROUPS = (
    ("p",), ("li",), ("h1",), ("h2", "h3"), ("h4", "h5", "h6"), ("td", "th", "caption"), ("pre",), ("blockquote",),
    ("dd", "dt"), ("button", "option", "select", "legend"), ("label",), ("figcaption", "figure"),
    ("div", "body", "html"), ("nav", "menu", "ul", "ol"), ("section", "summary", "details"),
)  # fmt: skip
TAG_COLUMN = {tag: column for column, tags in enumerate(TAG_GROUPS) for tag in tags}
LEVELS = 5
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
KINDS = ("article", "documentation", "forum", "listing", "collection", "product", "service")
# Patterns, and lower-case words: case-insensitive search costs far more than lower-casing the head.
PAGE_WORDS: tuple[re.Pattern[str] | tuple[str, ...], ...] = (
    re.compile(r'og:type"[^>]*content="(?:article|blog)'),
    re.compile(r'og:type"[^>]*content="product'),
    re.compile(r'og:type"[^>]*content="website'),
    re.compile(r'"@type":\s*"(?:News|Blog|Tech|Scholarly)?(?:Article|Posting)'),
    re.compile(r'"@type":\s*"(?:Product|Offer)"'),
    re.compile(r'"@type":\s*"(?:ItemList|CollectionPage)"'),
    re.compile(r'"@type":\s*"(?:DiscussionForumPosting|QAPage|Question)"'),
    re.compile(r'"@type":\s*"(?:Organization|LocalBusiness|Service)'),
    ("phpbb", "vbulletin", "xenforo", "discourse", "forum", "viewtopic"),
    ("sphinx", "docusaurus", "mkdocs", "readthedocs", "javadoc", "doxygen", "gitbook"),
    ("add to cart", "add to basket", "add to bag"),
    ("article:published_time", "datepublished"),
    ("shopify", "woocommerce", "magento", "bigcommerce"),
)


class PageFeatures:
    """`rows` [blocks, features] and `page` [page features] of one page; `characters` [blocks]."""

    def __init__(self, page: Blocks, head: str, title: str) -> None:
        self.source = page
        blocks = page.blocks
        count = len(blocks)
        texts = [block.text for block in blocks]
        self.characters = np.array([len(text) for text in texts], np.float32)
        self.links = np.array([block.link_characters for block in blocks], np.float32)
        facts = [text_facts(text) for text in texts]
        self.words = [fact.words for fact in facts]
        self.punctuation = np.array([fact.punctuation for fact in facts], np.float32)
        self.facts = np.array([fact.values for fact in facts], np.float32).reshape(count, VALUES)
        self.elements = np.array([block.element for block in blocks], np.int64)
        self.tags = np.array([TAG_COLUMN.get(block.tag, len(TAG_GROUPS)) for block in blocks], np.int64)
        near = np.array([block.near for block in blocks], np.int64)
        above = np.array([block.above for block in blocks], np.int64)
        self.near = ((near[:, None] >> np.arange(len(NAMES))) & 1).astype(np.float32)
        self.above = ((above[:, None] >> np.arange(len(NAMES))) & 1).astype(np.float32)
        self.parents = np.array(page.parents, np.int64)
        self.starts = np.array(page.starts, np.int64)
        self.ends = np.array(page.ends, np.int64)
        self.keys = np.array(page.keys, np.int64)
        self.depths = np.array(page.depths(), np.int64)
        self.repeats = _repeats(texts)
        self.page = self._page(head, count)
        self.rows = np.concatenate(
            [
                self._own(title),
                self.facts,
                self._tags(),
                self.near,
                self.above,
                self._around(),
                self._ancestors(),
                self._sections(),
            ],
            axis=1,
        )

    def _own(self, title: str) -> Floats:
        size = self.characters
        known = set(WORD.findall(title.lower()))
        columns = [
            scaled_log(size),
            np.minimum(size, 300) / 300,
            self.links / size,
            self.links >= size * 0.9,
            self.punctuation / size * 10,
            scaled_log(self.punctuation),
            [_overlap(words, known) for words in self.words],
            *self.repeats,
        ]
        return side_by_side(columns)

    def _sections(self) -> Floats:
        flags = self.facts[:, -len(TOPICS) - 1 :]
        sizes = self.characters, self.links, self.punctuation
        return section_features(self.source, self.depths, *sizes, self._levels(), flags)

    def _levels(self) -> npt.NDArray[np.int64]:
        """Level of each heading, else 0."""
        return np.array([int(block.tag[1]) if block.tag in HEADINGS else 0 for block in self.source.blocks], np.int64)

    def _tags(self) -> Floats:
        return np.eye(len(TAG_GROUPS) + 1, dtype=np.float32)[self.tags]

    def _around(self) -> Floats:
        """Neighbours, windows, position on the page, and preceding headings."""
        size, count = self.characters, len(self.characters)
        positions = np.arange(count)
        beside = np.zeros((3, count + 4), np.float32)  # two empty blocks at both ends
        beside[:, 2:-2] = scaled_log(size), self.links / size, self.punctuation / size * 10
        tags = np.pad(self.tags, 2, constant_values=-1)
        columns: list[Any] = []
        for start in (0, 1, 3, 4):
            columns += [*beside[:, start : start + count], tags[start : start + count] == self.tags]
        sums = self._sums()
        for reach in (4, 12):
            low, high = np.maximum(positions - reach, 0), np.minimum(positions + reach + 1, count)
            text, links, marks = sums[:, high] - sums[:, low]
            columns += [scaled_log(text), links / text, marks / text * 10]
        first = np.cumsum(self.tags == TAG_COLUMN["h1"])
        headings = np.cumsum(np.isin(self.tags, (TAG_COLUMN["h1"], TAG_COLUMN["h2"])))
        total = max(float(sums[0, -1]), 1.0)
        columns += [
            positions / count,
            sums[0, :-1] / total,
            first > 0,
            np.full(count, first.max(initial=0) > 0),
            scaled_log(headings),
            scaled_log(positions),
        ]
        columns.append(scaled_log(count - positions))
        return side_by_side(columns)

    def _sums(self) -> npt.NDArray[np.float64]:
        """Running sums of characters, linked characters and punctuation; shape [3, blocks + 1]."""
        sums = np.zeros((3, len(self.characters) + 1))
        for row, values in zip(sums, (self.characters, self.links, self.punctuation), strict=True):
            row[1:] = np.cumsum(values)
        return sums

    def _ancestors(self) -> Floats:
        """Of the nearest enclosing elements: amount of text, link and punctuation density, repetition."""
        paragraph = np.concatenate([[0], np.cumsum(self.characters * (self.tags == 0))])
        sums = np.concatenate([self._sums(), paragraph[None]])
        text, links, marks, prose = sums[:, self.ends] - sums[:, self.starts]
        text = np.maximum(text, 1)
        total = max(float(sums[0, -1]), 1.0)
        alike = np.bincount(self.keys)[self.keys]
        alike_text = np.bincount(self.keys, text)[self.keys] / alike
        blocks = np.maximum(self.ends - self.starts, 1)  # elements without blocks enclose no block
        columns = [scaled_log(text), text / total, links / text, marks / text * 10, prose / text, scaled_log(blocks)]
        columns += [scaled_log(text / blocks), scaled_log(alike), scaled_log(alike_text)]
        of_element = side_by_side(columns)
        element, levels = self.elements, []
        for _ in range(LEVELS):
            levels.append(of_element[element])
            element = np.maximum(self.parents[element], 0)
        return np.concatenate([*levels, scaled_log(self.depths[self.elements])[:, None]], axis=1)

    def _page(self, head: str, count: int) -> Floats:
        """Page features: fractions of text by tag and hint, links, sizes, and head data."""
        size = self.characters
        total = max(float(size.sum()), 1.0)
        shares = [float(size[self.tags == column].sum()) / total for column in range(len(TAG_GROUPS) + 1)]
        hinted = (size @ self.above / total).tolist()
        nearby = (size @ self.near / total).tolist()
        lowered = head.lower()
        said = [
            float(
                any(word in lowered for word in pattern) if isinstance(pattern, tuple) else bool(pattern.search(head))
            )
            for pattern in PAGE_WORDS
        ]
        long = size > 150
        rest = [
            float(scaled_log(total)),
            float(scaled_log(count)),
            float(self.links.sum()) / total,
            float(self.punctuation.sum()) / total * 10,
            float(size[long].sum()) / total,
            float(scaled_log(long.sum())),
            float(size.max(initial=0)) / total,
            float(self.near[:, NAMES.index("comment")].mean()) if count else 0.0,
        ]
        return np.array(shares + hinted + nearby + said + rest, np.float32)


def _repeats(texts: list[str]) -> list[list[float]]:
    """For each text whether it occurs elsewhere on the page, and whether it occurred before."""
    counts = Counter(texts)
    seen: set[str] = set()
    again = []
    for text in texts:
        again.append(float(text in seen))
        seen.add(text)
    return [[float(counts[text] > 1) for text in texts], again]


def _overlap(own: tuple[str, ...], words: set[str]) -> float:
    """Fraction of a text's words that are in `words`."""
    return 0.0 if words.isdisjoint(own) else sum(word in words for word in own) / len(own)
