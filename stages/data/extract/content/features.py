"""What a scorer knows of each block: its own text, its elements, its surroundings and the page."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.stages.data.extract.content.blocks import Blocks
from longcat.stages.data.extract.content.hints import NAMES

Floats = npt.NDArray[np.float32]
TAG_GROUPS = (
    ("p",), ("li",), ("h1",), ("h2", "h3"), ("h4", "h5", "h6"), ("td", "th", "caption"), ("pre",), ("blockquote",),
    ("dd", "dt"), ("button", "option", "select", "legend"), ("label",), ("figcaption", "figure"),
    ("div", "body", "html"), ("nav", "menu", "ul", "ol"), ("section", "summary", "details"),
)  # fmt: skip
TAG_COLUMN = {tag: column for column, tags in enumerate(TAG_GROUPS) for tag in tags}
PUNCTUATION = re.compile(r"[.,;:!?。、，！？]")
CAPITALS, DIGITS = string.ascii_uppercase.encode(), string.digits.encode()
ENDINGS = frozenset(".!?:;。！？\"”')")
SPECIAL = re.compile(
    r"©|all rights reserved|\bcookies?\b|privacy policy|terms of|log ?in|sign (?:in|up)|subscribe", re.I
)
# One of these is in every text that `SPECIAL` matches, once its letters are small and plain.
SPECIAL_WORDS = (
    "©", "all rights reserved", "cookie", "privacy policy", "terms of", "login", "log in", "sign in", "sign up",
    "subscribe",
)  # fmt: skip
WORD = re.compile(r"\w+")
CURRENCY = re.compile(r"[$€£¥]\s?\d|\d\s?(?:€|kr|zł|USD|EUR)")
LEVELS = 5
KINDS = ("article", "documentation", "forum", "listing", "collection", "product", "service")
# Patterns, and words in lower case: searching those without regard to case costs far more than lowering the head.
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


def _log(values: Any) -> Floats:
    logarithms: Floats = (np.log1p(np.maximum(np.asarray(values, np.float32), 0)) / 5).astype(np.float32)
    return logarithms


def _side_by_side(columns: Sequence[Any]) -> Floats:
    """Columns of one length as an array, [length, columns]; `np.stack` takes several times as long on short ones."""
    made = np.empty((len(columns), len(columns[0])), np.float32)
    for row, column in zip(made, columns, strict=True):
        row[:] = column
    return made.T


class PageFeatures:
    """`rows` [blocks, features] and `page` [page features] of one page; `characters` [blocks]."""

    def __init__(self, page: Blocks, head: str, title: str) -> None:
        self.source = page
        blocks = page.blocks
        count = len(blocks)
        texts = [block.text for block in blocks]
        self.characters = np.array([len(text) for text in texts], np.float32)
        self.links = np.array([block.link_characters for block in blocks], np.float32)
        self.punctuation = np.array([_count(text, b".,;:!?", _punctuation) for text in texts], np.float32)
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
        self.repeats = _repeats(texts)
        self.page = self._page(head, count)
        self.rows = np.concatenate(
            [self._own(texts, title), self._tags(), self.near, self.above, self._around(), self._ancestors()], axis=1
        )

    def _own(self, texts: list[str], title: str) -> Floats:
        size = self.characters
        known = set(WORD.findall(title.lower()))
        beginnings = [text[:200] for text in texts]
        digits = [_count(text, DIGITS, _digits) / len(text) for text in beginnings]
        columns = [
            _log(size),
            np.minimum(size, 300) / 300,
            self.links / size,
            self.links >= size * 0.9,
            self.punctuation / size * 10,
            _log(self.punctuation),
            [text[-1] in ENDINGS for text in texts],
            [text[:1].isupper() for text in texts],
            [_count(text, CAPITALS, _capitals) / len(text) for text in beginnings],
            digits,
            [_is_special(text[:400]) for text in texts],
            [share > 0 and bool(CURRENCY.search(text)) for share, text in zip(digits, beginnings, strict=True)],
            [_overlap(text, known) if len(text) < 200 else 0.0 for text in texts],
            *self.repeats,
        ]
        return _side_by_side(columns)

    def _tags(self) -> Floats:
        return np.eye(len(TAG_GROUPS) + 1, dtype=np.float32)[self.tags]

    def _around(self) -> Floats:
        """Neighbours, windows, the place on the page, and which headings came before."""
        size, count = self.characters, len(self.characters)
        positions = np.arange(count)
        beside = np.zeros((3, count + 4), np.float32)  # two blocks of nothing at both ends
        beside[:, 2:-2] = _log(size), self.links / size, self.punctuation / size * 10
        tags = np.pad(self.tags, 2, constant_values=-1)
        columns: list[Any] = []
        for start in (0, 1, 3, 4):
            columns += [*beside[:, start : start + count], tags[start : start + count] == self.tags]
        sums = self._sums()
        for reach in (4, 12):
            low, high = np.maximum(positions - reach, 0), np.minimum(positions + reach + 1, count)
            text, links, marks = sums[:, high] - sums[:, low]
            columns += [_log(text), links / text, marks / text * 10]
        first = np.cumsum(self.tags == TAG_COLUMN["h1"])
        headings = np.cumsum(np.isin(self.tags, (TAG_COLUMN["h1"], TAG_COLUMN["h2"])))
        total = max(float(sums[0, -1]), 1.0)
        columns += [
            positions / count,
            sums[0, :-1] / total,
            first > 0,
            np.full(count, first.max(initial=0) > 0),
            _log(headings),
            _log(positions),
        ]
        columns.append(_log(count - positions))
        return _side_by_side(columns)

    def _sums(self) -> npt.NDArray[np.float64]:
        """Running sums of characters, linked characters and punctuation; shape [3, blocks + 1]."""
        sums = np.zeros((3, len(self.characters) + 1))
        for row, values in zip(sums, (self.characters, self.links, self.punctuation), strict=True):
            row[1:] = np.cumsum(values)
        return sums

    def _ancestors(self) -> Floats:
        """Of the nearest elements around a block: how much text, how linked, how punctuated, how often repeated."""
        paragraph = np.concatenate([[0], np.cumsum(self.characters * (self.tags == 0))])
        sums = np.concatenate([self._sums(), paragraph[None]])
        text, links, marks, prose = sums[:, self.ends] - sums[:, self.starts]
        text = np.maximum(text, 1)
        total = max(float(sums[0, -1]), 1.0)
        alike = np.bincount(self.keys)[self.keys]
        alike_text = np.bincount(self.keys, text)[self.keys] / alike
        blocks = np.maximum(self.ends - self.starts, 1)  # elements without any are around no block
        columns = [_log(text), text / total, links / text, marks / text * 10, prose / text, _log(blocks)]
        columns += [_log(text / blocks), _log(alike), _log(alike_text)]
        of_element = _side_by_side(columns)
        element, levels = self.elements, []
        for _ in range(LEVELS):
            levels.append(of_element[element])
            element = np.maximum(self.parents[element], 0)
        depth: list[int] = []
        for parent in self.source.parents:
            depth.append(depth[parent] + 1 if parent >= 0 else 0)
        return np.concatenate([*levels, _log(np.array(depth)[self.elements])[:, None]], axis=1)

    def _page(self, head: str, count: int) -> Floats:
        """What tells the page's kind: shares of text by tag and hint, links, sizes, and what its head says."""
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
            float(_log(total)),
            float(_log(count)),
            float(self.links.sum()) / total,
            float(self.punctuation.sum()) / total * 10,
            float(size[long].sum()) / total,
            float(_log(long.sum())),
            float(size.max(initial=0)) / total,
            float(self.near[:, NAMES.index("comment")].mean()) if count else 0.0,
        ]
        return np.array(shares + hinted + nearby + said + rest, np.float32)


def _repeats(texts: list[str]) -> list[list[float]]:
    """For each text whether it stands elsewhere on the page too, and whether it came before."""
    counts = Counter(texts)
    seen: set[str] = set()
    again = []
    for text in texts:
        again.append(float(text in seen))
        seen.add(text)
    return [[float(counts[text] > 1) for text in texts], again]


def _count(text: str, signs: bytes, slowly: Callable[[str], int]) -> int:
    """What `slowly` counts, of which `signs` are the ASCII ones."""
    if text.isascii():
        data = text.encode()
        return len(data) - len(data.translate(None, signs))
    return slowly(text)


def _punctuation(text: str) -> int:
    return len(PUNCTUATION.findall(text))


def _capitals(text: str) -> int:
    return sum(map(str.isupper, text))


def _digits(text: str) -> int:
    return sum(map(str.isdigit, text))


def _is_special(text: str) -> bool:
    small = text.lower()
    if not text.isascii():  # what matches i and s without regard to case
        small = small.replace("i\u0307", "i").replace("ı", "i").replace("ſ", "s")
    return any(map(small.__contains__, SPECIAL_WORDS)) and bool(SPECIAL.search(text))


def _overlap(text: str, words: set[str]) -> float:
    """Share of a text's words that are among `words`."""
    own = WORD.findall(text.lower())
    return 0.0 if words.isdisjoint(own) else sum(word in words for word in own) / len(own)
