"""Which blocks of a page are its text: scores, hidden text, navigation, comments, a check on long paragraphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from longcat.stages.data.extract.content.columns import Bools, Floats
from longcat.stages.data.extract.content.comments import comment_blocks
from longcat.stages.data.extract.content.features import PageFeatures
from longcat.stages.data.extract.content.hidden import hidden_blocks
from longcat.stages.data.extract.content.navigation import navigation_blocks
from longcat.stages.data.extract.content.subjects import reply_subjects
from longcat.stages.data.extract.content.tables import keep_tables

if TYPE_CHECKING:
    from longcat.stages.data.extract.config import Comments

LONG_PARAGRAPHS = "long_paragraphs"
KEEP = 0.5
# Pages of many parts of equal rank, of which the scores are less sure.
KEEP_OF_KIND = {"collection": 0.4, "listing": 0.4, "forum": 0.4}
# Their long paragraphs are mostly not about what the page shows.
KINDS_OF_SHORT_TEXTS = ("product", "collection")
LONG_CHARACTERS = 140
ENOUGH_LONG = 300  # characters of long paragraphs on a page, below which the check says nothing
LEAST_SHARE = 0.25  # of the long paragraphs that kept text holds
FALLBACK_KEEP = 0.1
# What surrounds a text scores far less, also between its paragraphs; short items of it often do not score more.
BETWEEN_KEEP = 0.03
# Captions and boxes between paragraphs are paragraphs or divisions.
PARTS_OF_TEXT = frozenset(("li", "dt", "dd", "pre", "blockquote"))
COMMENT_CHARACTERS = 20


@dataclass(frozen=True, slots=True)
class Selection:
    """`keep` and `comments` are per block; `reason` is set where the scores were overruled.

    `confidence` is the F1 by characters that the scores promise for `keep`, 0 to 1.
    """

    keep: list[bool]
    comments: list[bool]
    reason: str | None
    confidence: float


def select(features: PageFeatures, scores: Floats, kind: str, comments: Comments) -> Selection:
    """Choose from the probabilities of `scorer.score`."""
    page = features.source
    running = features.characters * is_running(features)
    hidden = hidden_blocks(page, running) | navigation_blocks(page, features.characters, features.links)
    if kind == "forum":
        hidden |= reply_subjects(page)
    in_comments = comment_blocks(page)
    others = in_comments if _leaves_comments(kind, comments) else np.zeros_like(in_comments)
    keep = np.array(keep_tables(page, scores, KEEP_OF_KIND.get(kind, KEEP))) & ~hidden & ~others
    keep |= _between_paragraphs(features, keep) & (scores > BETWEEN_KEEP) & ~hidden & ~others
    reason = None
    if kind not in KINDS_OF_SHORT_TEXTS and _misses_paragraphs(features, keep, hidden | others):
        keep, reason = _around_paragraphs(features, scores, hidden | others), LONG_PARAGRAPHS
    said = _comment_text(features, scores, in_comments & ~hidden)
    if comments == "keep":
        keep |= said
    separate = said if comments == "separate" else np.zeros_like(said)
    return Selection(keep.tolist(), separate.tolist(), reason, _confidence(features, scores, keep))


def is_running(features: PageFeatures) -> Bools:
    """Whether each block is running text: long, with punctuation and few links."""
    size = features.characters
    found: Bools = (size >= LONG_CHARACTERS) & (features.links < 0.3 * size) & (features.punctuation * 80 > size * 0.3)
    return found


def _between_paragraphs(features: PageFeatures, keep: Bools) -> Bools:
    """Items, code and quotations of few links between kept paragraphs of the same element."""
    inside = np.zeros(len(keep), bool)
    bounds: dict[int, list[int]] = {}
    for block in np.flatnonzero(keep & is_running(features)).tolist():
        parent = int(features.parents[features.elements[block]])
        bounds.setdefault(parent, [block, block])[1] = block
    for first, last in bounds.values():
        inside[first:last] = True
    tagged = np.array([block.tag in PARTS_OF_TEXT for block in features.source.blocks], bool)
    return inside & tagged & (features.links < 0.3 * features.characters)


def _leaves_comments(kind: str, comments: Comments) -> bool:
    return comments in ("drop", "separate") or (comments == "auto" and kind != "forum")


def _misses_paragraphs(features: PageFeatures, keep: Bools, out: Bools) -> bool:
    long = features.characters * (is_running(features) & ~out)
    total = float(long.sum())
    kept = float(features.characters[keep].sum())
    return total >= ENOUGH_LONG and float(long[keep].sum()) < LEAST_SHARE * total and 2 * kept < total


def _around_paragraphs(features: PageFeatures, scores: Floats, out: Bools) -> Bools:
    """Long paragraphs, and what scores at all in the smallest element that holds most of them."""
    long = is_running(features) & ~out
    sums = np.concatenate([[0], np.cumsum(features.characters * long, dtype=np.float64)])
    held = sums[features.ends] - sums[features.starts]
    holding = np.flatnonzero(held >= 0.8 * sums[-1])
    keep = np.zeros(len(long), bool)
    if len(holding):
        core = holding[np.argmax(features.depths[holding])]
        inside = slice(features.starts[core], features.ends[core])
        keep[inside] = long[inside] | (scores[inside] > FALLBACK_KEEP)
    return (keep | (long & (scores > FALLBACK_KEEP))) & ~out


def _comment_text(features: PageFeatures, scores: Floats, inside: Bools) -> Bools:
    """Sentences in comments, and whatever scores as content there."""
    size = features.characters
    sentence = (size >= COMMENT_CHARACTERS) & (features.links < 0.5 * size) & (features.punctuation > 0)
    found: Bools = inside & (sentence | (scores > KEEP))
    return found


def _confidence(features: PageFeatures, scores: Floats, keep: Bools) -> float:
    size = features.characters
    expected = float((size * scores).sum())
    total = float(size[keep].sum()) + expected
    return 2 * float((size * scores)[keep].sum()) / total if total else 0.0
