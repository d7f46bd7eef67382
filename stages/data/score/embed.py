"""Documents as vectors: hashed words, weighted by how rare they are, projected and rounded to whole numbers.

D dimensions, W buckets of words, N documents. Vectors are whole numbers of a length of about `SCALE`, so that every sum
of products of two of them is below 2^24 and exact in float32: distances, and with them the groups, are the same bits
for any number of threads and any order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longcat.stages.data.dedup.words import word_hashes

BUCKET_BITS = 18
BUCKETS = 1 << BUCKET_BITS
SCALE = 2048
# A word in fewer documents of the sample tells of no likeness; page numbers would set the pages of a template apart.
MIN_DOCUMENTS = 3

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Bag:
    """The words of one text: buckets in rising order, each once, and 1 + log of how often its words occur."""

    buckets: Integers
    weights: Floats


def bag_of_words(text: str) -> Bag:
    """Which buckets the words of a text fall into; empty for a text without words."""
    hashes, _ = word_hashes([text])
    buckets, counts = np.unique((hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64), return_counts=True)
    return Bag(buckets, 1 + np.log(counts))


def rarity(found: Integers, documents: int) -> Floats:
    """Weight of every bucket, [W]: log((1 + N) / (1 + documents with it)), after `found` in each of N documents.

    It is 0 where fewer than `MIN_DOCUMENTS` have it.
    """
    having = np.bincount(found, minlength=BUCKETS)
    return np.where(having < MIN_DOCUMENTS, 0.0, np.log((1 + documents) / (1 + having)))


def embed(bags: list[Bag], rarities: Floats, dimensions: int) -> Vectors:
    """The vectors [n, D]: each bucket adds its weight to one dimension, with the sign that its first bit tells.

    A text without words, or with none that tell it from others, is all zeros.
    """
    vectors = np.zeros((len(bags), dimensions))
    for row, bag in enumerate(bags):
        signs = np.where(bag.buckets >> (BUCKET_BITS - 1), -1.0, 1.0)
        values = signs * bag.weights * rarities[bag.buckets]
        vectors[row] = np.bincount(bag.buckets % dimensions, weights=values, minlength=dimensions)
    norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return np.rint(vectors * (SCALE / np.where(norms == 0, 1, norms))).astype(np.int16)
