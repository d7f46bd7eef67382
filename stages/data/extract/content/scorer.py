"""Main content scorer: page kind, and two passes of small networks over block features.

The first pass sees a block's own features and the words of its text, its heading and its class names; the second one
also what the first found in the block's sections and around it, so that whole sections are judged alike. The weights in
`weights.npz` were fitted by `benchmarks/fit_content_scorer.py`, which lists the pages; their text is in
`docs/benchmarks-data.md`. One set of weights serves pages of every kind; kind probabilities are features.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from longcat.stages.data.extract.content.columns import Floats, Integers
from longcat.stages.data.extract.content.context import context_features
from longcat.stages.data.extract.content.features import KINDS, PageFeatures
from longcat.stages.data.extract.content.vocabulary import Vocabulary, joined

WEIGHTS = Path(__file__).with_name("weights.npz")
LIMIT = 6.0  # of a standardised feature
NEAR_LEVELS = 3
NEAR_WEIGHT, FAR_WEIGHT = 0.6, 0.25


class Weights:
    """Arrays of the fitted networks by name, and the vocabularies; words are stored one per line."""

    def __init__(self, arrays: dict[str, Floats], text: str, classes: str) -> None:
        self.arrays = arrays
        self.text_words = Vocabulary(text.split("\n"))
        self.class_words = Vocabulary(classes.split("\n"))

    def __getitem__(self, name: str) -> Floats:
        return self.arrays[name]

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Read an archive of `numpy.savez`."""
        with np.load(path, allow_pickle=False) as stored:
            text, classes = (stored[name].tobytes().decode() for name in ("text_words", "class_words"))
            arrays = {name: stored[name].astype(np.float32) for name in stored.files if not name.endswith("_words")}
        return cls(arrays, text, classes)


@cache
def shipped_weights() -> Weights:
    """The weights of this version."""
    return Weights.read(WEIGHTS)


def score(features: PageFeatures, weights: Weights | None = None) -> tuple[str, Floats]:
    """Most likely kind of the page, and for each block the probability of being main content."""
    weights = weights or shipped_weights()
    kinds = kind_probabilities(features, weights)
    rows = np.concatenate([features.rows, np.repeat(kinds[None], len(features.rows), axis=0)], axis=1)
    first = first_pass(features, rows, weights)
    second = _network(weights, "second", np.concatenate([rows, context_features(features, first)], axis=1), None)
    likely: Floats = (1 / (1 + np.exp(-np.clip(second, -30, 30)))).astype(np.float32)
    return KINDS[int(kinds.argmax())], likely


def first_pass(features: PageFeatures, rows: Floats, weights: Weights) -> Floats:
    """Log-odds of each block; `rows` are its features and the kind probabilities, [blocks, features]."""
    return _network(weights, "first", rows, _words(features, weights))


def kind_probabilities(features: PageFeatures, weights: Weights) -> Floats:
    """Probability of each of `KINDS`, from page statistics alone; shape [kinds]."""
    scores = weights["kind_weight"] @ features.page + weights["kind_bias"]
    powers = np.exp(scores - scores.max())
    return (powers / powers.sum()).astype(np.float32)


def _network(weights: Weights, name: str, rows: Floats, added: Floats | None) -> Floats:
    """Log-odds of each row by a network of three layers; `added` goes to the outputs of the first, [rows, width]."""
    values = np.clip((rows - weights[f"{name}_mean"]) / weights[f"{name}_deviation"], -LIMIT, LIMIT)
    values = values @ weights[f"{name}_weight0"] + weights[f"{name}_bias0"]
    values = np.maximum(values if added is None else values + added, 0)
    values = np.maximum(values @ weights[f"{name}_weight1"] + weights[f"{name}_bias1"], 0)
    return (values @ weights[f"{name}_weight2"] + weights[f"{name}_bias2"])[:, 0]


def _words(features: PageFeatures, weights: Weights) -> Floats:
    """Sum of the vectors of a block's words; shape [blocks, width]."""
    texts = _vectors(joined([weights.text_words.of_text(words) for words in features.words]), weights["text"])
    # Elements without text are many, and around no block.
    used = set(features.keys[features.ends > features.starts].tolist())
    kinds = enumerate(features.source.kinds)
    names = joined([weights.class_words.of_kind(kind) if key in used else () for key, kind in kinds])
    near, far = (_vectors(names, weights[name])[features.keys] for name in ("near", "far"))
    above = _levels(features)
    levels = np.zeros_like(near)
    element: Integers = np.arange(len(near))
    for _ in range(NEAR_LEVELS):
        levels += near[element] * (element >= 0)[:, None]
        element = np.where(element >= 0, features.parents[element], -1)
    for level in above:
        far[level] += far[features.parents[level]]
    outer: Floats = far[element] * (element >= 0)[:, None]
    of_element = NEAR_WEIGHT * levels + FAR_WEIGHT * outer
    total: Floats = texts + of_element[features.elements]
    return total


def _levels(features: PageFeatures) -> list[Integers]:
    """Elements by their depth, those of depth 1 first."""
    order = np.argsort(features.depths, kind="stable")
    bounds = np.searchsorted(features.depths[order], np.arange(1, features.depths.max() + 2))
    return [order[low:high] for low, high in pairwise(bounds)]


def _vectors(bags: tuple[Integers, Integers], table: Floats) -> Floats:
    """Sum of the vectors of a bag divided by the root of their number; shape [bags, width]."""
    found, offsets = bags
    sums = np.zeros((len(offsets) - 1, table.shape[1]), np.float32)
    sizes = np.diff(offsets)
    some = np.flatnonzero(sizes)
    if len(some):
        sums[some] = np.add.reduceat(table[found], offsets[some], axis=0) / np.sqrt(sizes[some])[:, None]
    return sums
