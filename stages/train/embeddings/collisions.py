"""Collisions in n-gram tables: different n-grams of the tokens that share a row.

A table of M rows, of which a uniform hash of n different n-grams would occupy M (1 - (1 - 1/M)^n), has n minus that
many collisions. The hash of `model.embeddings.ngram` is the number with the ids as digits, modulo M: where M is near a
multiple of the vocabulary size, or of a fraction of it with a small denominator, it has several times as many (Scaling
Embeddings, arXiv 2601.21204, on the sizes of vocabularies).

Names: T tokens, N ids before a token, I tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import previous_ids
from longcat.model.embeddings.ngram import NgramHash
from longcat.pipeline.tokens import TokenFile

SAMPLE_TOKENS = 1 << 19
WARNED_RATIO = 1.2
DEVIATIONS = 3.0  # of the number under a uniform hash, so that few n-grams are no reason for a warning


@dataclass(frozen=True)
class Collisions:
    """One table: length of its n-grams, rows, different n-grams of the sample, and those among them without a row of
    their own, counted and as expected of a uniform hash.
    """

    table: int
    order: int
    rows: int
    ngrams: int
    collisions: int
    expected: float

    @property
    def ratio(self) -> float:
        """Collisions relative to a uniform hash; 1 if there are none."""
        return self.collisions / self.expected if self.collisions else 1.0

    @property
    def warned(self) -> bool:
        """Whether there are clearly more than `WARNED_RATIO` times as many as expected."""
        surplus = self.collisions - WARNED_RATIO * self.expected
        return surplus > DEVIATIONS * math.sqrt(self.expected)


def count_collisions(config: ModelConfig, tokens: TokenFile, sample: int = SAMPLE_TOKENS) -> list[Collisions]:
    """Collisions of every table on documents of about `sample` tokens, spread over the file; none without tables."""
    return [] if config.ngram_tables is None else collisions_of(config, *_sample(tokens, sample))


def collisions_of(config: ModelConfig, ids: torch.Tensor, bounds: torch.Tensor) -> list[Collisions]:
    """Collisions of every table of a model that has tables, on ids [T] with these bounds of documents, 0 to T."""
    if config.ngram_tables is None:
        raise ValueError("the model has no n-gram tables")
    hashing = NgramHash.of(config, config.ngram_tables)
    previous_1TN = previous_ids(ids.unsqueeze(0), hashing.sizes.order - 1, bounds)
    excluded_1T = hashing.excluded(ids.unsqueeze(0))
    kept_T = torch.ones_like(ids, dtype=torch.bool) if excluded_1T is None else ~excluded_1T[0]
    rows_TI = hashing.rows(ids.unsqueeze(0), previous_1TN)[0][kept_T]
    seen = [id_1T[0][kept_T] for id_1T in hashing.seen(previous_1TN)]
    ngrams = _different(ids[kept_T], seen, config.vocab_size)
    found = []
    for table, size in enumerate(hashing.sizes.sizes):
        order = hashing.sizes.order_of(table)
        count = ngrams[order]
        occupied = len(rows_TI[:, table].unique())
        expected = count + size * math.expm1(count * math.log1p(-1 / size)) if size > 1 else count - 1.0
        found.append(Collisions(table, order, size, count, count - occupied, expected))
    return found


def _sample(tokens: TokenFile, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [T] of documents at even distances, and their bounds."""
    share = min(1.0, size / max(1, tokens.total_tokens))
    wanted = max(1, math.ceil(share * tokens.n_documents))
    documents = np.unique(np.linspace(0, tokens.n_documents - 1, wanted).astype(np.int64))
    parts, total = [], 0
    for document in documents.tolist():
        if total >= size:
            break
        parts.append(np.asarray(tokens.document(document)[: size - total]).astype(np.int64))
        total += len(parts[-1])
    bounds = np.concatenate(([0], np.cumsum([len(part) for part in parts])))
    return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(np.unique(bounds))


def _different(ids_T: torch.Tensor, seen: Sequence[torch.Tensor], vocabulary: int) -> dict[int, int]:
    """Number of different n-grams by length; an n-gram gets the number of the shorter one in it, and its first id."""
    numbers_T, found = ids_T, {}
    for order, id_T in enumerate(seen, start=2):
        _, numbers_T = (numbers_T * vocabulary + id_T).unique(return_inverse=True)
        found[order] = int(numbers_T.max()) + 1 if len(numbers_T) else 0
    return found


def warnings_of(config: ModelConfig, found: Sequence[Collisions]) -> list[str]:
    """One sentence on the worst table, if any has more than `WARNED_RATIO` times the collisions of a uniform hash."""
    worst = max((each for each in found if each.warned), key=lambda each: each.ratio, default=None)
    if worst is None or config.ngram_vocab_size_ratio is None:
        return []
    told, ratio = sum(each.warned for each in found), config.ngram_vocab_size_ratio
    return [
        f"ngram_vocab_size_ratio = {ratio:g}: {told} of {len(found)} n-gram tables have more than {WARNED_RATIO:g} "
        f"times the collisions of a uniform hash; of {worst.ngrams:,} {worst.order}-grams, {worst.collisions:,} share "
        f"a row in table {worst.table}, {worst.ratio:.1f} times as many. Integers and simple fractions are bad, try "
        f"{math.floor(ratio) + 0.57:g}"
    ]


def told_collisions(config: ModelConfig, tokens: TokenFile) -> list[str]:
    """`warnings_of` the collisions of a model on these tokens."""
    return warnings_of(config, count_collisions(config, tokens))
