"""Signatures and clusters: what counts as the same, measured against datasketch and against exact Jaccard."""

from __future__ import annotations

import random

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH

from stages.data.dedup.clusters import Clusters, Records, candidates, join_band, join_exact, priorities, similarity
from stages.data.dedup.signatures import Signer, exact_digest, ngram_hashes, normalised_words

BANDS, ROWS, NGRAM = 14, 8, 5
SIGNER = Signer(BANDS * ROWS, NGRAM, seed=1)


def text(generator: random.Random, words: int) -> str:
    return " ".join(f"w{generator.randrange(4000)}" for _ in range(words))


def edited(generator: random.Random, original: str, rate: float) -> str:
    return " ".join(f"e{generator.random()}" if generator.random() < rate else word for word in original.split())


def jaccard(first: str, second: str) -> float:
    sets = [set(ngram_hashes(normalised_words(item), NGRAM).tolist()) for item in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def corpus(generator: random.Random) -> list[str]:
    """Originals, each with copies of rising edit rates."""
    originals = [text(generator, generator.randrange(60, 300)) for _ in range(60)]
    return [edited(generator, item, rate) for item in originals for rate in (0.0, 0.005, 0.01, 0.02, 0.05, 0.2)]


def records_of(texts: list[str]) -> Records:
    digests = np.array([np.frombuffer(exact_digest(item), dtype=np.uint64) for item in texts])
    signatures = np.array([SIGNER.sign(item) for item in texts])
    return Records([f"d{n:05d}" for n in range(len(texts))], np.array([len(t) for t in texts]), digests, signatures)


def roots_of(records: Records, min_similarity: float | None) -> list[int]:
    clusters = Clusters(priorities(records))
    documents = candidates(records, join_exact(clusters, records.digests))
    for band in range(BANDS):
        join_band(clusters, records.signatures, documents, slice(band * ROWS, (band + 1) * ROWS), min_similarity)
    return clusters.roots().tolist()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("one  two\n\nthree", " one two three ", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("One two", "one two", False),
        ("version 1", "version 2", False),
    ],
)
def test_the_digest_ignores_layout_alone(first: str, second: str, same: bool) -> None:
    assert (exact_digest(first) == exact_digest(second)) is same


def test_words_ignore_case_punctuation_and_forms() -> None:
    assert normalised_words("Ｈello, WORLD! ﬁn… 第一句。") == ["hello", "world", "fin", "第", "一", "句"]


def test_a_short_text_has_one_ngram_and_an_empty_one_none() -> None:
    assert [len(ngram_hashes(["a"] * words, 5)) for words in (0, 1, 4, 5, 7)] == [0, 1, 1, 1, 3]


def test_signatures_estimate_jaccard() -> None:
    generator = random.Random(1)
    original = text(generator, 2000)
    for rate in (0.01, 0.03, 0.08):
        copy = edited(generator, original, rate)
        found = similarity(np.array([SIGNER.sign(original), SIGNER.sign(copy)]), np.array([0]), np.array([1]))[0]
        assert found == pytest.approx(jaccard(original, copy), abs=0.13)  # three standard errors of 112 hashes


def test_bands_find_the_pairs_that_datasketch_finds() -> None:
    records = records_of(corpus(random.Random(2)))
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    sketches = [MinHash(hashvalues=row, scheme="affine32") for row in records.signatures]
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch)
    expected = Clusters(priorities(records))
    for number, sketch in enumerate(sketches):
        for other in index.query(sketch):
            expected.join(number, other)
    assert roots_of(records, None) == expected.roots().tolist()


def test_near_copies_are_found_and_strangers_are_not() -> None:
    texts = corpus(random.Random(3))
    roots = roots_of(records_of(texts), 0.7)
    near = [
        (a, b) for a in range(len(texts)) for b in range(a) if a // 6 == b // 6 and jaccard(texts[a], texts[b]) >= 0.8
    ]
    assert len(near) > 200
    assert sum(roots[a] == roots[b] for a, b in near) / len(near) >= 0.95
    assert all(root // 6 == number // 6 for number, root in enumerate(roots))


def test_a_candidate_pair_below_the_least_similarity_is_let_go() -> None:
    generator = random.Random(4)
    common = text(generator, 200)
    texts = [common, edited(generator, common, 0.06)]
    records = records_of(texts)
    records.signatures[1, :ROWS] = records.signatures[0, :ROWS]
    assert len(set(roots_of(records, None))) == 1
    assert len(set(roots_of(records, 0.9))) == 2


def test_members_unlike_the_first_of_a_bucket_meet_each_other() -> None:
    generator = random.Random(5)
    first, second = text(generator, 300), text(generator, 200)
    records = records_of([first, second, edited(generator, second, 0.005)])
    records.signatures[:, :ROWS] = 7
    clusters = Clusters(priorities(records))
    join_band(clusters, records.signatures, np.arange(3), slice(0, ROWS), 0.7)
    roots = clusters.roots().tolist()
    assert roots[0] != roots[1] == roots[2]


def test_texts_without_words_are_not_near_each_other() -> None:
    records = records_of(["...", "!!!", "???"])
    assert roots_of(records, None) == [0, 1, 2]


def test_the_longest_text_comes_first_then_the_smallest_id() -> None:
    zeros = np.zeros((3, 2), dtype=np.uint64)
    records = Records(["b", "c", "a"], np.array([5, 9, 5]), zeros, np.zeros((3, 0), dtype=np.uint32))
    assert priorities(records).tolist() == [2, 0, 1]
