"""Documents as vectors: hashed words with IDF weights, projected and rounded to integers.

D dimensions, W buckets of words, N documents. Vectors are integers with norm of about `SCALE`, so that every dot
product is below 2^24 and exact in float32: distances and clusters are bitwise equal for any number of threads and
summation order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.hashed_words import word_hashes

BUCKET_BITS = 18
BUCKETS = 1 << BUCKET_BITS
SCALE = 2048
# Words in fewer sample documents are ignored; page numbers, for example, would separate pages of a template.
MIN_DOCUMENTS = 3

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Bag:
    """Words of one text: sorted distinct buckets, and 1 + log of their counts."""

    buckets: Integers
    weights: Floats


def bag_of_words(text: str) -> Bag:
    """Buckets of the words of a text; empty without words."""
    hashes, _ = word_hashes([text])
    buckets, counts = np.unique((hashes >> np.uint64(64 - BUCKET_BITS)).astype(np.int64), return_counts=True)
    return Bag(buckets, 1 + np.log(counts))


def rarity(found: Integers, documents: int) -> Floats:
    """Weight of every bucket, [W]: log((1 + N) / (1 + documents with it)), after `found` in each of N documents.

    0 if fewer than `MIN_DOCUMENTS` have it.
    """
    having = np.bincount(found, minlength=BUCKETS)
    return np.where(having < MIN_DOCUMENTS, 0.0, np.log((1 + documents) / (1 + having)))


def embed(bags: list[Bag], rarities: Floats, dimensions: int) -> Vectors:
    """Vectors [n, D]: each bucket adds its weight to one dimension, with the sign of its first bit.

    A text without informative words is all zeros.
    """
    vectors = np.zeros((len(bags), dimensions))
    for row, bag in enumerate(bags):
        signs = np.where(bag.buckets >> (BUCKET_BITS - 1), -1.0, 1.0)
        values = signs * bag.weights * rarities[bag.buckets]
        vectors[row] = np.bincount(bag.buckets % dimensions, weights=values, minlength=dimensions)
    norms = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    return np.rint(vectors * (SCALE / np.where(norms == 0, 1, norms))).astype(np.int16)
