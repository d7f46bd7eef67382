"""Pages with known main content as samples for `fit_content_scorer.py`, and the measures of extracted text.

A line of the truth has `id`, `url`, `type`, and the page's main text as `text`, or null with snippets that belong to it
(`with`) and that do not (`without`). Blocks of such a page that no snippet mentions are labelled by the text of another
extractor (`--teacher`), with a lower weight.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from longcat.stages.data.extract.content.block import Blocks
from longcat.stages.data.extract.content.blocks import read_blocks
from longcat.stages.data.extract.content.columns import Floats
from longcat.stages.data.extract.content.features import PageFeatures

WORD = re.compile(r"\w+")
TAUGHT_WEIGHT = 0.3
FEW_CHARACTERS = 15
Truth = dict[str, Any]


@dataclass
class Sample:
    """One page. `wanted` is the fraction of a block's word 4-grams in the truth, `words` and `weight` are per block."""

    origin: str  # name of the file of the truth
    truth: Truth
    blocks: Blocks
    features: PageFeatures
    wanted: Floats
    words: Floats
    weight: Floats
    truth_words: int

    @property
    def site(self) -> str:
        return site(self.truth)

    @property
    def known(self) -> bool:
        """Whether the whole main text is known."""
        return self.truth["text"] is not None


def site(truth: Truth) -> str:
    """The last two labels of the host."""
    url = str(truth.get("url") or truth["id"]).rpartition("::")[2]
    host = urlsplit(url).hostname or re.split(r"[/-]", url)[0]
    return ".".join(host.removeprefix("www.").split(".")[-2:])


def fold(name: str, salt: str, folds: int) -> int:
    """Fold of a site by a checksum of its name, the same on every machine."""
    return zlib.crc32((salt + name).encode()) % folds


def read_pages(crawl: Path, truth: Path) -> Iterator[tuple[Truth, bytes]]:
    """Pages of a WARC whose record ids end with `:id` of a line of `truth`."""
    from fastwarc.warc import ArchiveIterator

    known = {item["id"]: item for item in map(json.loads, truth.read_bytes().splitlines())}
    with crawl.open("rb") as stream:
        for record in ArchiveIterator(stream):
            item = known.get(str(record.record_id).strip("<>").rpartition(":")[2])
            if item is not None:
                yield item, record.reader.read()


def read_samples(crawl: Path, truth: Path, taught: dict[str, str]) -> Iterator[Sample]:
    """Samples of all pages with text; `taught` is another extractor's text by id."""
    from resiliparse.parse.html import HTMLTree

    from longcat.stages.data.extract.decode import decode
    from longcat.stages.data.extract.html import head_of, without_controls

    for item, data in read_pages(crawl, truth):
        tree: Any = HTMLTree.parse(without_controls(decode(data, is_html=True).text))
        markup = tree.document.html
        blocks = read_blocks(markup)
        if not blocks.blocks:
            continue
        text = item["text"] if item["text"] is not None else taught.get(item["id"])
        if text is None:
            raise SystemExit(f"{truth}: {item['id']} has neither text nor a line of --teacher")
        wanted, words, length = _labels([block.text for block in blocks.blocks], text)
        weight = np.ones(len(words), np.float32)
        if item["text"] is None:
            _mark_snippets(blocks, item, wanted, weight)
        features = PageFeatures(blocks, head_of(markup), tree.title or "")
        yield Sample(truth.stem, item, blocks, features, wanted, words, weight, length)


def _labels(texts: list[str], truth: str) -> tuple[Floats, Floats, int]:
    known = WORD.findall(truth.lower())
    grams = [set(zip(*(known[start:] for start in range(size)), strict=False)) for size in (1, 2, 3, 4)]
    wanted, lengths = [], []
    for text in texts:
        words = WORD.findall(text.lower())
        size = min(4, len(words))
        own = list(zip(*(words[start:] for start in range(size)), strict=False)) if size else []
        wanted.append(sum(gram in grams[size - 1] for gram in own) / len(own) if own else 0.0)
        lengths.append(len(words))
    return np.array(wanted, np.float32), np.array(lengths, np.float32), len(known)


def _mark_snippets(blocks: Blocks, truth: Truth, wanted: Floats, weight: Floats) -> None:
    weight[:] = TAUGHT_WEIGHT
    snippets = [(_joined(text), 1.0) for text in truth["with"]] + [(_joined(text), 0.0) for text in truth["without"]]
    for number, block in enumerate(blocks.blocks):
        text = _joined(block.text)
        for snippet, label in snippets:
            if snippet in text or (len(text) > FEW_CHARACTERS and text in snippet):
                wanted[number], weight[number] = label, 1.0
                break


def _joined(text: str) -> str:
    return " ".join(text.split())


class Measures:
    """Word F1 by kind of page as the mean over pages, F1 of word 4-grams of articles, micro F1 of snippets."""

    def __init__(self) -> None:
        self.f1: dict[str, list[float]] = {}
        self.sites: dict[str, list[float]] = {}
        self.shingles: list[tuple[float, float]] = []
        self.snippets: Counter[str] = Counter()

    def add(self, truth: Truth, text: str) -> None:
        """Compare one page's text with its truth."""
        if truth["text"] is None:
            found = _joined(text)
            kept = sum(_joined(snippet) in found for snippet in truth["with"])
            self.snippets["true"] += kept
            self.snippets["missed"] += len(truth["with"]) - kept
            self.snippets["false"] += sum(_joined(snippet) in found for snippet in truth["without"])
            return
        value = word_f1(text, truth["text"])
        for kind in ("all", truth["type"]):
            self.f1.setdefault(kind, []).append(value)
        self.sites.setdefault(site(truth), []).append(value)
        if truth["type"] == "article":
            own, known = _shingles(text), _shingles(truth["text"])
            both = (own & known).total()
            self.shingles.append((both / max(1, own.total()), both / max(1, known.total())))

    def summary(self) -> dict[str, float]:
        """Measures by name, those that have pages."""
        found = {kind: sum(values) / len(values) for kind, values in sorted(self.f1.items())}
        if self.shingles:
            precision, recall = (sum(column) / len(self.shingles) for column in zip(*self.shingles, strict=True))
            found["articles, 4-grams"] = 2 * precision * recall / (precision + recall)
        if self.snippets:
            right = 2 * self.snippets["true"]
            found["snippets"] = right / (right + self.snippets["missed"] + self.snippets["false"])
        return found


def word_f1(found: str, truth: str) -> float:
    """F1 of the bags of words."""
    one, other = Counter(WORD.findall(found.lower())), Counter(WORD.findall(truth.lower()))
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def _shingles(text: str) -> Counter[tuple[str, ...]]:
    words = WORD.findall(text.lower())
    return Counter(tuple(words[at : at + 4]) for at in range(max(1, len(words) - 3)))
